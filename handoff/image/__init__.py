"""The container image where no registry can be reached: a base of Debian packages, a build, and a proof by running."""
