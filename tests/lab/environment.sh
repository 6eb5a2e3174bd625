#!/usr/bin/env bash
# Makes the Python environment that every target of the Makefile runs in, and prints its path on stdout.
#
# It holds exactly the versions of requirements.lock, each checked against its hash, and this checkout as
# an editable install. It lies in the cache, under a name made of the lock, what of the project file an
# install reads, the interpreter and the checkout, so that nothing is ever installed into an environment that
# exists already and two checkouts do not share one. What is missing of Python itself comes from Debian's
# packages, where there is an apt-get, and so do, for `with-nft` and its like, the programs that the lab, the
# tests and the images need besides. Progress goes to stderr.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'vipkeeper: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

from_debian() {
    command -v apt-get >/dev/null || fail "$1 is missing: install $2 with this system's package manager"
    [ "$(id -u)" = 0 ] || fail "$1 is missing: run 'apt-get install $2' as root"
    say "$1 is missing: installing Debian's $2"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >&2
}

usable_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

python=$(usable_python) || { from_debian "Python 3.11 or newer" python3; python=$(usable_python); } ||
    fail "no Python 3.11 or newer: set PYTHON to one"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
installed_from='import tomllib; read = tomllib.load(open("pyproject.toml", "rb"))
print(read["build-system"], read["project"], read["tool"]["hatch"])'
key=$({ cat requirements.lock && "$python" -c "$installed_from" && "$python" -VV && echo "$python $PWD"; } |
    sha256sum | cut -c1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/vipkeeper"
environment="$cache/python/$version-$key"

mkdir -p "$cache/python"
exec 9>"$environment.lock"
flock --nonblock 9 || { say "another make is preparing the environment; waiting for it"; flock 9; }
if [ ! -e "$environment/.complete" ]; then
    say "creating the Python environment in $environment (once for each requirements.lock)"
    rm -rf "$environment"
    "$python" -m venv "$environment" >/dev/null 2>&1 || {
        rm -rf "$environment"
        from_debian "Python's venv module" "python$version-venv"
        "$python" -m venv "$environment" >&2
    }
    pip=("$environment/bin/python" -m pip --disable-pip-version-check)
    say "installing the $(grep -c == requirements.lock) packages of requirements.lock"
    "${pip[@]}" install --quiet --require-hashes --only-binary :all: -r requirements.lock >&2
    say "installing vipkeeper itself (editable)"
    "${pip[@]}" install --quiet --no-deps --no-build-isolation --editable . >&2
    touch "$environment/.complete"
fi

for tool in "$@"; do
    case $tool in
    with-nft)
        command -v nft >/dev/null || from_debian "nft (the lab loses packets with it)" nftables ;;
    with-agents)
        [ -e /usr/lib/ocf/resource.d/heartbeat/anything ] ||
            from_debian "a set of OCF resource agents (tests run some)" resource-agents ;;
    with-keepalived)
        command -v keepalived >/dev/null ||
            from_debian "keepalived (the benchmark compares with it; it is not started)" keepalived ;;
    with-kubelets)
        command -v containerd >/dev/null || from_debian "containerd (a kubelet runs pods with it)" containerd
        command -v runc >/dev/null || from_debian "runc (containerd runs containers with it)" runc
        [ -x /usr/lib/cni/ptp ] ||
            from_debian "a set of CNI plugins (pods get addresses from them)" containernetworking-plugins ;;
    with-buildah)
        command -v buildah >/dev/null || from_debian "buildah (it builds the images)" buildah ;;
    with-qemu)
        command -v qemu-system-x86_64 >/dev/null || from_debian "QEMU (it runs other kernels)" qemu-system-x86
        command -v depmod >/dev/null || from_debian "kmod (it finds a kernel's modules)" kmod
        [ -e /var/lib/dpkg/info/busybox-static.list ] ||
            from_debian "a busybox without libraries (other kernels start with it)" busybox-static ;;
    *) fail "$tool is none of with-nft, with-agents, with-keepalived, with-kubelets, with-buildah and with-qemu" ;;
    esac
done
echo "$environment"
