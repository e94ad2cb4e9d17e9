#!/usr/bin/env bash
# The official AsyncAPI parser, for checking schemas/asyncapi.json in tests and by hand.
#
#   infra/dev/asyncapi.sh                  install it where it is missing, print where it is
#   infra/dev/asyncapi.sh --check          print the same, or exit 1 when it is not installed yet
#   infra/dev/asyncapi.sh --validate FILE  say on standard output what is wrong with FILE, exit 1 for errors
#
# Needs: Node.js 18 or newer and npm. It is kept in ${XDG_CACHE_HOME:-~/.cache}/callstream/asyncapi (55 MB); delete it to
# start over.
set -euo pipefail

readonly VERSION=3.6.3
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/callstream/asyncapi"
readonly PARSER="$CACHE/$VERSION/node_modules/@asyncapi/parser"

say() { printf '%s\n' "$*" >&2; }

location() { printf 'ASYNCAPI_PARSER=%s\n' "$PARSER"; }

is_complete() { [[ -f "$PARSER/package.json" ]] && command -v node >/dev/null; }

install() {
    is_complete && return
    command -v node >/dev/null && command -v npm >/dev/null || { say "asyncapi: needs Node.js 18 or newer and npm"; exit 1; }
    say "asyncapi: installing @asyncapi/parser $VERSION (55 MB, under a minute)"
    local building="$CACHE/$VERSION.building"
    rm -rf "$building"
    mkdir -p "$building"
    (cd "$building" && npm install --silent --no-audit --no-fund --ignore-scripts --prefix . "@asyncapi/parser@$VERSION") >&2
    rm -rf "${CACHE:?}/$VERSION"
    mv "$building" "$CACHE/$VERSION"
}

# One line for each finding: its severity, where it is, and what is wrong. Severity 0 is an error.
validate() {
    node - "$PARSER" "$1" <<'JAVASCRIPT'
const { readFileSync } = require("node:fs");
const [parserFolder, file] = process.argv.slice(2);
const { Parser } = require(parserFolder);
const severities = ["error", "warning", "information", "hint"];

async function main() {
  const { diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: file });
  for (const found of diagnostics) {
    console.log(`${severities[found.severity]} ${found.path.join(".") || "document"}: ${found.message}`);
  }
  process.exitCode = diagnostics.some((found) => found.severity === 0) ? 1 : 0;
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 2;
});
JAVASCRIPT
}

case "${1:-}" in
"")
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    install
    exec 9>&-
    location
    ;;
--check) is_complete && location ;;
--validate)
    [[ $# == 2 ]] || { say "usage: $0 --validate FILE"; exit 2; }
    is_complete || { say "asyncapi: the parser is not installed; $0 installs it"; exit 2; }
    validate "$2"
    ;;
*)
    say "usage: $0 [--check | --validate FILE]"
    exit 2
    ;;
esac
