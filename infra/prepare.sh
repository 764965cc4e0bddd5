#!/bin/sh
# Leaves infra/.env with a new secret for each empty value of .env.example, and infra/store; an .env that is there stays.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p store
[ ! -e .env ] || { echo "infra/.env is there already"; exit 0; }
while read -r line; do
  pair=${line%%#*}                      # without its comment
  case $pair in
    ENGINEWORKS_UID=*) echo "ENGINEWORKS_UID=$(id -u)" ;;
    ENGINEWORKS_GID=*) echo "ENGINEWORKS_GID=$(id -g)" ;;
    *=*) echo "${pair%%=*}=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
  esac
done < .env.example > .env.partial
mv .env.partial .env
echo "infra/.env and infra/store are there"
