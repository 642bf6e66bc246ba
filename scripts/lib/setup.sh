# Sets up what the scripts need, from a bare machine, once: sourced by scripts/*, never run by itself.
#
# setup_run   packages and a .venv with asynckvm installed (editable): what programs need
# setup_dev   the same, and what the tests and checks need
#
# Each step leaves a stamp under build/, named by a digest of what it depends on, and is skipped while the stamp is true.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() {
	if [ -t 2 ]; then printf '\033[1m== %s\033[0m\n' "$*" >&2; else printf '== %s\n' "$*" >&2; fi
}
die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# One set-up at a time, however many scripts are started together. What was built in another folder and copied here with
# the tree names that folder inside, so it goes.
setup_lock() {
	mkdir -p build
	exec 9>build/.setup-lock
	flock 9
	if [ "$(cat build/root 2>/dev/null)" != "$root" ]; then
		rm -rf build/*
		printf '%s' "$root" >build/root
	fi
}
setup_unlock() { exec 9>&-; }

stamp_is() { [ -f "build/stamp-$1" ] && [ "$(cat "build/stamp-$1")" = "$2" ]; }
stamp() { printf '%s' "$2" >"build/stamp-$1"; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		die "not root and no sudo; run this as root, then again as you are: $*"
	fi
}

# Debian packages that are not installed yet. Elsewhere the commands they bring are looked for, and the missing ones named.
need_packages() {
	local missing=() package
	if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
		for package; do
			dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
		done
		[ ${#missing[@]} = 0 ] && return
		say "installing packages: ${missing[*]}"
		as_root apt-get update -q
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
	else
		for package in cc cmake ninja busybox musl-gcc clang; do
			command -v "$package" >/dev/null || missing+=("$package")
		done
		[ ${#missing[@]} = 0 ] || die "this is not Debian; please install what brings these commands: ${missing[*]}"
	fi
}

# A Python that can make a virtual environment and compile an extension module.
find_python() {
	local candidate
	for candidate in ${ASYNCKVM_PYTHON:-} python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
		if "$candidate" - 2>/dev/null <<-'PYTHON'; then
			import ensurepip, os, sys, sysconfig, venv
			header = os.path.join(sysconfig.get_path("include"), "Python.h")
			sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
		PYTHON
			command -v "$candidate"
			return
		fi
	done
	die "no Python 3.11 or later with venv and its C headers found; set ASYNCKVM_PYTHON to one"
}

# Digest of the files that the compiled module is made of; __init__.py holds the version.
native_digest() {
	find native pyproject.toml asynckvm/__init__.py -type f ! -path 'native/tests/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum |
		cat - <(.venv/bin/python -VV) | sha256sum
}

# setup_python run|dev
setup_python() {
	local digest python requirements extra=""
	if ! .venv/bin/python -c 'import pip' 2>/dev/null || ! grep -qF "$root/.venv" .venv/bin/activate; then
		python=$(find_python)
		say "creating .venv with $python"
		rm -rf .venv build/stamp-*
		"$python" -m venv .venv
	fi
	digest=$(cat pyproject.toml <(.venv/bin/python -VV) | sha256sum)
	if ! stamp_is "python-$1" "$digest"; then
		say "installing Python packages ($1)"
		[ "$1" = dev ] && extra=dev
		requirements=$(.venv/bin/python scripts/lib/requirements.py $extra)
		# Unquoted: one requirement a word.
		# shellcheck disable=SC2086
		.venv/bin/python -m pip install --quiet $requirements
		stamp "python-$1" "$digest"
		[ "$1" = dev ] && stamp python-run "$digest"
	fi
	digest=$(native_digest)
	if ! stamp_is native "$digest"; then
		say "building the native core and installing asynckvm into .venv"
		.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
		stamp native "$digest"
	fi
}

# busybox and musl's compiler bring the real programs that run as guests.
packages_run=(build-essential cmake ninja-build python3-dev python3-venv busybox-static musl-tools)
# Programs of the table in tests/programs; scripts/conformance names what it needs beyond them.
packages_programs=(bash bc bzip2 cpio dash gawk git lua5.4 make netbase openssl perl procps python3 sqlite3 tzdata xz-utils zstd)
packages_dev=("${packages_run[@]}" "${packages_programs[@]}" clang libclang-rt-dev)

setup_run() {
	setup_lock
	need_packages "${packages_run[@]}"
	setup_python run
	setup_unlock
}

setup_dev() {
	setup_lock
	need_packages "${packages_dev[@]}"
	setup_python dev
	setup_unlock
}
