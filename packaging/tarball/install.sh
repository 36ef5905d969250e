#!/bin/sh
# Installs the endpoint sensor on a host with systemd, from the directory this script is in.
#
#   ./install.sh            install or upgrade, and start
#   ./install.sh --remove   stop and remove; settings, state and alerts stay
#   ./install.sh --purge    remove everything
#
# DESTDIR=DIR puts the files below DIR and does nothing else.
set -eu

cd "$(dirname "$0")"
action=${1:-install}

say() { echo "eql-sensor: $*"; }

if [ -z "${DESTDIR:-}" ] && [ "$(id -u)" != 0 ]; then
    say "needs root: sudo $0 $*" >&2
    exit 77
fi

files() { (cd tree && find . -type f | sed 's|^\./|/|'); }
running() { [ -z "${DESTDIR:-}" ] && [ -d /run/systemd/system ]; }

case "$action" in
install)
    files | while read -r file; do
        mode=0644
        case "$file" in /usr/sbin/*) mode=0755 ;; esac
        install -D -m "$mode" "tree$file" "${DESTDIR:-}$file"
    done
    [ -z "${DESTDIR:-}" ] || exit 0
    systemd-sysusers eql-sensor.conf
    systemd-tmpfiles --create eql-sensor.conf || true
    journalctl --update-catalog > /dev/null 2>&1 || true
    if running; then
        systemctl daemon-reload
        systemctl enable eql-sensor.service
        systemctl restart eql-sensor.service
        say "installed and running; alerts: journalctl -u eql-sensor"
    else
        say "installed; systemd does not run here, so nothing was started"
    fi
    ;;
--remove | --purge)
    if running; then
        systemctl disable --now eql-sensor.service || true
    fi
    files | while read -r file; do rm -f "${DESTDIR:-}$file"; done
    rm -rf "${DESTDIR:-}/usr/lib/eql-sensor" "${DESTDIR:-}/usr/share/eql-sensor" "${DESTDIR:-}/usr/share/doc/eql-sensor"
    [ -z "${DESTDIR:-}" ] || exit 0
    if [ "$action" = --purge ]; then
        rm -rf /etc/eql-sensor /run/eql-sensor /var/lib/eql-sensor /var/log/eql-sensor \
            /etc/systemd/system/eql-sensor.service.d /etc/systemd/catalog/eql-sensor.catalog
        userdel eql-sensor 2> /dev/null || true
        groupdel eql-sensor 2> /dev/null || true
    fi
    journalctl --update-catalog > /dev/null 2>&1 || true
    if running; then
        systemctl daemon-reload
    fi
    say "removed"
    ;;
*)
    say "unknown argument $action; allowed are --remove and --purge" >&2
    exit 2
    ;;
esac
