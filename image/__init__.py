"""The container image where no registry can be reached: a base of Debian packages, a build, a proof by running."""
