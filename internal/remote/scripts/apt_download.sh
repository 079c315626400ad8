# apt.download WAIT PACKAGE[=VERSION]...: fetches what apt.install would install.
apt install --download-only --no-install-recommends --no-remove --allow-downgrades --allow-change-held-packages -- "$@"
