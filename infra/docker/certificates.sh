#!/usr/bin/env bash
# Makes a certificate authority and the brokers' certificate for tls.override.yml, in a new folder:
#
#   infra/docker/certificates.sh FOLDER [NAME...]     NAME: what else clients call them
#
# FOLDER/ca.pem goes to every client. FOLDER/broker.pem holds their key: the folder is closed to other users of
# this machine, the file itself is readable by Kafka's user, whose number differs from yours. FOLDER/ca.key signs
# further certificates; keep it elsewhere. Needs: openssl.
set -euo pipefail

[[ $# -ge 1 ]] || { echo "usage: $0 FOLDER [NAME...]" >&2; exit 2; }
readonly FOLDER="${1%/}"
shift
readonly BROKER_DAYS=825 AUTHORITY_DAYS=3650

names=DNS:kafka,DNS:nats,DNS:localhost,IP:127.0.0.1
for name in "$@"; do
    if [[ "$name" =~ ^[0-9.]+$ || "$name" == *:* ]]; then names+=",IP:$name"; else names+=",DNS:$name"; fi
done

[[ ! -e "$FOLDER" ]] || { echo "$0: $FOLDER exists; certificates that may be in use are not replaced" >&2; exit 1; }
readonly MAKING="$FOLDER.new"
mkdir -m 700 -p "$MAKING"
trap 'rm -rf "$MAKING"' EXIT

# openssl draws its progress on standard error: shown only where it fails.
quietly() { "$@" 2>"$MAKING/log" || { cat "$MAKING/log" >&2; exit 1; }; }

key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
quietly openssl req -x509 "${key[@]}" -days "$AUTHORITY_DAYS" -subj "/CN=callstream's authority" \
    -keyout "$MAKING/ca.key" -out "$MAKING/ca.pem"
quietly openssl req "${key[@]}" -subj "/CN=kafka" -keyout "$MAKING/broker.key" -out "$MAKING/broker.csr"
printf 'subjectAltName=%s\n' "$names" >"$MAKING/broker.ext"
quietly openssl x509 -req -in "$MAKING/broker.csr" -CA "$MAKING/ca.pem" -CAkey "$MAKING/ca.key" -CAcreateserial \
    -days "$BROKER_DAYS" -extfile "$MAKING/broker.ext" -out "$MAKING/broker.crt"
cat "$MAKING/broker.key" "$MAKING/broker.crt" >"$MAKING/broker.pem"
chmod 644 "$MAKING/broker.pem" "$MAKING/ca.pem"
rm "$MAKING"/broker.{key,crt,csr,ext} "$MAKING/log"
mv "$MAKING" "$FOLDER"
echo "$FOLDER/ca.pem and $FOLDER/broker.pem for $names"
