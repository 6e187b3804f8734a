#!/bin/sh
# ./start --source csi://0     shows this folder's model live; it takes the options of `edgemtl demo`
# ./start selftest             any other command of edgemtl, for this model: bench, record, doctor …
#
# The first start makes .venv, which sees the system's TensorRT, NumPy and OpenCV and never replaces them, asks doctor,
# builds the engine and tests it. It writes into this folder alone.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
fail() {
    echo "start: $*" >&2
    exit 2
}

# Nothing runs before every file is known to be the one that was packed, and to lie in this folder.
[ -f "$here/SHA256SUMS" ] || fail "SHA256SUMS is missing; unpack the archive again"
listed=$(cut -c67- "$here/SHA256SUMS")
outside=$(printf '%s\n' "$listed" | grep -E '^/|(^|/)\.\.(/|$)|\\' | head -n 1) || true
[ -z "$outside" ] || fail "SHA256SUMS names $outside, which is not in this folder; unpack the archive again"
link=$(find "$here" \( -path "$here/.venv" -o -path "$here/.cache" \) -prune -o -type l -print | head -n 1)
[ -z "$link" ] || fail "$link is a link, and none was packed; unpack the archive again"
wrong=$(cd "$here" && sha256sum --check --strict --quiet SHA256SUMS 2>/dev/null) ||
    fail "changed since it was packed: $(printf '%s' "${wrong:-SHA256SUMS}" | head -n 1); unpack the archive again"
stray=$(cd "$here" && find edgemtl edgemtl-*.dist-info wheels *.py -type f 2>/dev/null | grep -vxF -- "$listed" | head -n 1) || true
[ -z "$stray" ] || fail "$stray was not packed; unpack the archive again"

case $here in *[[:space:]]*) fail "the path $here has a space in it; unpack the archive elsewhere" ;; esac
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    fail "$python does not run; sudo apt install python3 python3-venv"
case $version in
3.10 | 3.11 | 3.12) ;;
*) fail "this is Python $version, edgemtl needs 3.10 to 3.12: JetPack 6 or 7" ;;
esac

unset PYTHONHOME
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1
export XDG_CACHE_HOME="$here/.cache" PYTHONPYCACHEPREFIX="$here/.cache/python"
venv=$here/.venv
run=$venv/bin/python
edgemtl() {
    "$run" "$here/run.py" "$@" # not -m, which would look into the working folder first
}
trust=
previous=
for word in "$@"; do
    [ "$previous" = --trust ] && trust=$word
    previous=$word
done

this="$(sha256sum <"$here/SHA256SUMS" | cut -c-64) $version $here"
if [ "$(cat "$venv/made" 2>/dev/null)" != "$this" ]; then
    echo "start: the first start makes $venv" >&2
    said=$("$python" -m venv --clear --system-site-packages "$venv" 2>&1) ||
        fail "$python cannot make a venv ($(printf '%s' "$said" | tail -n 1)); sudo apt install python3-venv"
    # What is pinned pip cannot replace, today or later: the system's versions; one of which pip knows nothing, none at all.
    "$run" - >"$venv/pins.txt" <<'PY'
import importlib.util
from importlib import metadata
from itertools import chain

there = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
start = ("cuda", "numpy", "onnxruntime", "opencv", "scipy", "tensorrt", "torch")
pins = {name: version for name, version in there.items() if name.startswith(start)}
if importlib.util.find_spec("cv2") and not any(name.startswith("opencv") for name in pins):
    pins |= {"opencv-python": "0", "opencv-python-headless": "0", "opencv-contrib-python": "0"}
print("\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))
PY
    printf '[install]\nconstraint = %s\n' "$venv/pins.txt" >"$venv/pip.conf"
    wanted="--quiet --disable-pip-version-check --find-links $here/wheels -r $here/requirements.txt"
    "$run" -I -m pip install $wanted --no-index 2>/dev/null || {
        echo "start: wheels/ does not hold all of requirements.txt for this Python; asking the package index" >&2
        "$run" -I -m pip install $wanted || fail "pip cannot fetch what requirements.txt lists; it needs a network once"
    }
    edgemtl doctor --target @TARGET@ || exit $?
    edgemtl selftest "$here/model" ${trust:+--trust "$trust"} || exit $?
    printf '%s\n' "$this" >"$venv/made"
fi

case ${1:-} in
"" | -*) edgemtl demo "$here/model" "$@" ;;
doctor) edgemtl doctor --target @TARGET@ ;;
*)
    word=$1
    shift
    edgemtl "$word" "$here/model" "$@"
    ;;
esac
