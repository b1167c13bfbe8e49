# Sourced by the scripts that check: it reports each check, and finds or installs their tools.
#
# A tool is looked for on PATH, then in the cache. If neither has it, Go builds it, which verifies
# the source against Go's checksum database; or cargo does, with the tool's own lock file; or pip
# installs it. A check whose tool is missing is reported as skipped, with the reason, never as ok.
#
# The script that sources this file sets `cache` and `work`.
# shellcheck shell=bash disable=SC2034,SC2154

count_ok=0 count_skipped=0 count_failed=0

have() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%-8s %-10s %s\n' "$@"; }
ok() { say ok "$1" "$2"; count_ok=$((count_ok + 1)); }
skipped() { say skipped "$1" "$2: $3"; count_skipped=$((count_skipped + 1)); }
failed() { # PART WHAT; prints the end of the log
  say FAIL "$1" "$2"
  tail -n 20 "$work/log" | awk '{ print "           " $0 }'
  count_failed=$((count_failed + 1))
}

# holds PART WHAT CMD...: runs CMD in a subshell and reports ok, or FAIL with the end of its output.
holds() {
  local part=$1 what=$2
  shift 2
  if ("$@") >"$work/log" 2>&1; then ok "$part" "$what"; return; fi
  failed "$part" "$what"
  return 1
}

# Prints the counts. Fails if a check failed, or if the argument is 1 and one was skipped.
totals() {
  echo "$count_ok ok, $count_skipped skipped, $count_failed failed"
  ((count_failed == 0 && (${1:-0} == 0 || count_skipped == 0)))
}

# Each of these sets `found`, or sets `why` to the reason and returns 1.
go_tool() { # NAME MODULE@VERSION
  local name=$1 module=$2 kept bin
  kept=$cache/$name-${module##*@} bin=$work/go/$name
  if [[ $name != compose-spec ]] && found=$(type -P "$name"); then return; fi
  if [[ ! -x $kept ]]; then
    have go || { why="no $name on PATH and no Go to build it with"; return 1; }
    echo "building $name ${module##*@} with go" >&2
    mkdir -p "$cache" "$bin"
    GOBIN=$bin CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install "$module" >"$work/log" 2>&1 \
      || { why="go install: $(tail -n 1 "$work/log" | cut -c 1-200)"; return 1; }
    mv -f "$bin"/* "$kept.part" && mv -f "$kept.part" "$kept" # Go names the program after its directory
  fi
  found=$kept
}

cargo_tool() { # NAME VERSION
  if found=$(type -P "$1"); then return; fi
  found=$cache/$1-$2/bin/$1
  if [[ ! -x $found ]]; then
    have cargo || { why="no $1 on PATH and no cargo to build it with"; return 1; }
    echo "building $1 $2 with cargo" >&2
    cargo install --quiet --locked --root "$cache/$1-$2" "$1@$2" >"$work/log" 2>&1 \
      || { why="cargo install: $(tail -n 1 "$work/log" | cut -c 1-200)"; return 1; }
  fi
}

python_package() { # REQUIREMENT; `found` is the directory of the installed package
  local kept=${1%% *}
  kept=$cache/python-${kept/==/-}
  if [[ ! -d $kept ]]; then
    pip_install "$1" || return 1
    mv "$work/python" "$kept"
  fi
  found=$kept
}

pip_install() { # REQUIREMENT, a line of a requirements file; installs it into $work/python
  have python3 || { why="no python3 on PATH"; return 1; }
  echo "fetching ${1%% *} with pip" >&2
  mkdir -p "$cache"
  rm -rf "$work/python"
  python3 -m pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: --no-deps --target "$work/python" \
    --requirement /dev/stdin <<<"$1" >"$work/pip" 2>&1 || { why="pip install: $(grep -m 1 -e ERROR "$work/pip" | cut -c 1-200)"; return 1; }
}

# apt_tool PROGRAM PACKAGE: finds PROGRAM, or lets root install the distribution's package.
apt_tool() {
  if found=$(type -P "$1"); then return; fi
  if [[ $(id -u) == 0 ]] && have apt-get; then
    local -x DEBIAN_FRONTEND=noninteractive
    { apt-get install -y --no-install-recommends "$2" \
      || { apt-get update && apt-get install -y --no-install-recommends "$2"; }; } >"$work/log" 2>&1 || true
  fi
  found=$(type -P "$1") || { why="no $1 on PATH; install $2"; return 1; }
}
