#!/bin/sh
# Install Chromium for the tests of web pages, from the system's packages: Debian, as root only.
# Prints the program's path; where it cannot be installed, says what to do and fails.
set -eu
for program in chromium chromium-browser google-chrome; do
    if path=$(command -v "$program"); then
        echo "$path"
        exit 0
    fi
done
# Ubuntu's package of that name is a link to a snap, which does not run in a container.
if ! grep -qs '^ID=debian' /etc/os-release; then
    echo "the tests of web pages need Chromium; install it from the system's packages" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "the tests of web pages need Chromium; run: sudo apt-get install chromium" >&2
    exit 1
fi
# Another apt may be running.
apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends chromium >&2
command -v chromium
