#!/bin/sh
# Installs meshctl with completions and manual pages below a prefix. Needs no root.
set -eu

usage() {
	cat <<'USAGE'
Usage: ./install.sh [OPTIONS]

Installs meshctl, its shell completions and its manual pages. Needs no root.

  --prefix DIR      where to [default: ~/.local]
  --from-file BIN   install this binary instead of building one from this checkout
  --uninstall       remove what was installed there; the mesh's own state stays
  --version         print the version that would be installed
  -h, --help        print this
USAGE
}

say() { printf '%s\n' "$*"; }
fail() {
	printf 'install.sh: %s\n' "$1" >&2
	exit "${2:-1}"
}

prefix=
binary=
action=install
while [ $# -gt 0 ]; do
	case $1 in
	--prefix | --from-file)
		[ $# -ge 2 ] || fail "$1 needs a value" 2
		if [ "$1" = --prefix ]; then prefix=$2; else binary=$2; fi
		shift
		;;
	--prefix=*) prefix=${1#*=} ;;
	--from-file=*) binary=${1#*=} ;;
	--uninstall) action=uninstall ;;
	--version) action=version ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		fail "unknown option $1" 2
		;;
	esac
	shift
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

if [ -z "$prefix" ]; then
	[ -n "${HOME:-}" ] || fail "HOME is not set; name a place with --prefix DIR" 2
	prefix=$HOME/.local
fi
case $prefix in
/*) ;;
*) prefix=$(pwd)/$prefix ;;
esac

bin=$prefix/bin/meshctl
man=$prefix/share/man/man1
bash_completion=$prefix/share/bash-completion/completions/meshctl
zsh_completion=$prefix/share/zsh/site-functions/_meshctl
fish_completion=$prefix/share/fish/vendor_completions.d/meshctl.fish

checkout_version() {
	[ -f "$here/Cargo.toml" ] || fail "there is no Cargo.toml in $here; use --from-file BIN"
	sed -n 's/^version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -n 1
}

case $action in
version)
	if [ -n "$binary" ]; then
		[ -x "$binary" ] || fail "$binary is not a program"
		"$binary" --version
	else
		say "meshctl $(checkout_version)"
	fi
	exit 0
	;;
uninstall)
	found=no
	for file in "$bin" "$bash_completion" "$zsh_completion" "$fish_completion" \
		"$man"/meshctl.1 "$man"/meshctl-*.1; do
		if [ -e "$file" ] || [ -L "$file" ]; then
			rm -f -- "$file"
			found=yes
		fi
	done
	if [ $found = yes ]; then
		say "meshctl was removed from $prefix"
		say "The mesh's state is still there; \`rm -r\` its home to remove that, too."
	else
		say "meshctl is not installed in $prefix"
	fi
	exit 0
	;;
esac

if [ -z "$binary" ]; then
	checkout_version >/dev/null
	command -v cargo >/dev/null 2>&1 ||
		fail "cargo is needed to build meshctl: see https://rustup.rs, or use --from-file BIN"
	say "Building meshctl (this takes some minutes) ..."
	target=${CARGO_TARGET_DIR:-$here/target}
	(cd "$here" && cargo build --release --locked --bin meshctl --target-dir "$target")
	binary=$target/release/meshctl
fi
[ -f "$binary" ] || fail "there is no $binary"

work=
new=
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
	if [ -n "$new" ]; then rm -f -- "$new"; fi
	if [ -n "$work" ]; then rm -rf -- "$work"; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir -p -- "$prefix/bin" 2>/dev/null || fail "cannot write to $prefix; choose another --prefix"
[ -w "$prefix/bin" ] || fail "cannot write to $prefix/bin; choose another --prefix"

# Into the same directory first: a move within one file system is atomic, and a meshctl that is
# running keeps the file that it was started from.
new=$prefix/bin/.meshctl.new.$$
cp -- "$binary" "$new"
chmod 755 "$new"
version=$("$new" --version) || fail "$binary does not run on this machine"

# All of it is made before any of it is put into place.
work=$(mktemp -d "${TMPDIR:-/tmp}/meshctl-install.XXXXXX")
"$new" completion bash >"$work/bash"
"$new" completion zsh >"$work/zsh"
"$new" completion fish >"$work/fish"
"$new" --quiet man --dir "$work/man"

place() {
	mkdir -p -- "$(dirname -- "$2")"
	cp -- "$1" "$2.new.$$"
	chmod 644 "$2.new.$$"
	mv -f -- "$2.new.$$" "$2"
}
place "$work/bash" "$bash_completion"
place "$work/zsh" "$zsh_completion"
place "$work/fish" "$fish_completion"
for page in "$work"/man/*.1; do
	place "$page" "$man/${page##*/}"
done
mv -f -- "$new" "$bin"
new=

say "Installed $version in $prefix"
say "  $bin"
say "  $man/meshctl.1 and a page for each command"
say "  completions for bash, zsh and fish in $prefix/share"
say ""
case ":${PATH:-}:" in
*":$prefix/bin:"*) ;;
*)
	say "$prefix/bin is not in PATH. Add it:"
	say "  export PATH=\"$prefix/bin:\$PATH\""
	say ""
	;;
esac
say "Next:"
say "  meshctl check --pre               can this machine run a mesh?"
say "  meshctl install                   make a home for it"
say "  meshctl up -d examples/bookinfo   run pods with sidecars"
say "  meshctl demo                      or see all of it in a minute"
