# shellcheck shell=bash
# What scripts/demo and scripts/test look at before they install or build anything. To be sourced; needs $root, the repository.

# An ordinary user of Debian's has no sbin in the search path, where getpcaps, losetup and mkfs are.
PATH=$PATH:/usr/sbin:/sbin

# The packages of Debian 12 and 13 that have what is missing: the distribution's own `cargo` is older there.
packages_of_debian="on Debian 12 and 13: apt-get install gcc cargo-web, on Debian 12 with its security updates (bookworm-security) as a source of apt; elsewhere see https://rustup.rs"

# Ends with a message where the Rust toolchain, or the C linker that it calls, is missing or too old.
need_toolchain() { # SCRIPT [test]
    local wanted have
    # shellcheck disable=SC2154 # of the script that sources this
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        echo "$1: Rust is missing. Install Rust $wanted or newer ($packages_of_debian)" >&2
        exit 1
    fi
    have=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$wanted" "${have%%-*}" | sort -V | head -n 1)" = "$wanted" ] || {
        echo "$1: Rust $have is too old. Install Rust $wanted or newer ($packages_of_debian)" >&2
        exit 1
    }
    command -v cc >/dev/null || {
        echo "$1: the C linker cc is missing. Install gcc (Debian, Ubuntu: apt-get install gcc)" >&2
        exit 1
    }
    [ "${2:-}" = test ] || return 0
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        echo "$1: rustfmt or clippy is missing. Install both (Debian 12 and 13, with cargo-web: apt-get install rustfmt-web" \
            "rust-web-clippy; with rustup: rustup component add rustfmt clippy)" >&2
        exit 1
    fi
}

# Whether the QEMU of this machine, or the one that apt-get would install, has the proxy backend: it went with 9.2.
# Prints the version.
has_proxy_backend() {
    local version answer
    if command -v qemu-system-x86_64 >/dev/null; then
        version=$(qemu-system-x86_64 -version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
        echo "$version"
        answer=$(qemu-system-x86_64 -machine none -display none -fsdev proxy,id=probe </dev/null 2>&1 || true)
        case $answer in *"fsdriver proxy not found"*) return 1 ;; esac
        return 0
    fi
    version=$(apt-cache policy qemu-system-x86 2>/dev/null | sed -n 's/^ *Candidate: \(.*:\)\{0,1\}\([0-9.]*\).*/\2/p')
    echo "${version:-unknown}"
    [ -z "$version" ] || [ "$(printf '%s\n' 9.2 "$version" | sort -V | head -n 1)" != 9.2 ]
}
