"""The container image where no registry can be reached: a base of Debian packages, a build, and a test by running it.

May import `handoff.errors` and `local_seldon.ports`; of the service it uses only the built image.
"""
