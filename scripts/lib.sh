# What the scripts share; source it from the project's root.
set -euo pipefail

# Builds are kept outside the checkout, so that a fresh clone does not build everything anew.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/scoreline"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
mkdir -p "$CARGO_TARGET_DIR"

need() {
    command -v "$1" >/dev/null 2>&1 || {
        echo "scoreline: $1 is missing: $2" >&2
        exit 1
    }
}

need cargo "install Rust with rustup (https://rustup.rs)"
need cc "install a C compiler, such as gcc or clang"
need python3 "install Python 3 with pip"
