#!/usr/bin/env bash
# Score the images that lie in a folder, once, and sort them by what was said of them.
#
#   inspect.sh MODEL FOLDER
#
# MODEL is a bundle (uadctl fit --bundle) or a run folder. FOLDER has, or gets, these folders:
#   incoming/  what is to be judged: files are moved here when they are complete, never written here
#   good/ review/ anomaly/   judged
#   broken/    could not be judged; the log says why
#   log/       inspect.log: what happened, a line each; and of each batch its rows, as lines of JSON
#
# A file is moved after its row is on the disk, by one rename, and is never overwritten: where a name is taken, the time
# and a number are put in front. What could not be moved stays in incoming/ and is judged again the next time; so does
# what came or was replaced while the batch ran. Files whose names are not those of images are passed over.
#
# Exit codes: 0 done, also if there was nothing to do · 1 some files are broken · 2 something is to be mended, and
# nothing was moved · 4 an anomaly was found · 75 another one is at work · 130 interrupted. 1 wins over 4.
#
# Environment: UADCTL, the program (uadctl); DEVICE, where it computes (the model's own); UADCTL_OFFLINE is set.
# Needs bash, flock (util-linux), and the Python that runs uadctl or any other from 3.8 on, as PYTHON (python3).

set -euo pipefail

if [[ $# -ne 2 ]]; then
    echo "usage: inspect.sh MODEL FOLDER" >&2
    exit 2
fi
model=$1
folder=$2
uadctl=${UADCTL:-uadctl}
python=${PYTHON:-python3}
export UADCTL_OFFLINE=1

if [[ ! -e $model ]]; then
    echo "inspect.sh: $model: no such model" >&2
    exit 2
fi
if [[ ! -d $folder/incoming ]]; then
    echo "inspect.sh: $folder/incoming: no such folder" >&2
    exit 2
fi
mkdir -p -- "$folder"/{good,review,anomaly,broken,log}

# One at a time. The lock ends with this process, however that ends; children do not inherit it.
exec 9>>"$folder/log/lock"
if ! flock --nonblock 9; then
    echo "inspect.sh: $folder: another inspect.sh is at work" >&2
    exit 75
fi

log=$folder/log/inspect.log
stamp=$(date -u +%Y%m%dT%H%M%SZ)
rows=$folder/log/$stamp-$$.jsonl

say() {
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" >>"$log"
}

# Nothing there is no mistake: uadctl would say that there are no images, and exit with 2.
names=()
for suffix in bmp jpeg jpg npy png raw tif tiff webp; do
    names+=(-o -iname "*.$suffix")
done
unsure=
found=$(find -L "$folder/incoming" -mindepth 1 -name '.?*' -prune -o '(' -type f -o -type l ')' \
    '(' "${names[@]:1}" ')' -print -quit 2>>"$log") || unsure=yes
# Where it could not look into a folder, uadctl shall say so.
if [[ -z $found && -z $unsure ]]; then
    say "nothing to do"
    exit 0
fi

options=(--json --fail-on-anomaly)
if [[ -n ${DEVICE:-} ]]; then
    options+=(--device "$DEVICE")
fi

# What is there now, and in which state: a file that is replaced while the batch runs must not get the verdict of
# another. Of a link it is the file that it leads to; a folder that is linked twice is one.
before=$folder/log/.$stamp-$$.before
trap 'rm -f -- "$before"' EXIT
if ! "$python" - "$folder/incoming" "$before" >>"$log" 2>&1 9>&- <<'END'; then
import json, os, sys

incoming, out = os.fsencode(sys.argv[1]), sys.argv[2]
found, seen, waiting = {}, set(), [incoming]
while waiting:
    folder = waiting.pop()
    try:
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        place = os.path.realpath(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                if os.path.isdir(entry.path):
                    waiting.append(entry.path)
                    continue
                try:
                    facts = os.stat(entry.path)
                except OSError:
                    facts = os.lstat(entry.path)
                state = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
                found[os.fsdecode(os.path.join(place, entry.name))] = state
    except OSError as error:  # taken away meanwhile, or not to be read: what has no state is not moved
        print(f"cannot be read: {folder!r}: {error.strerror or error}")
with open(out, "w", encoding="ascii") as stream:
    json.dump(found, stream)
END
    say "failed to list $folder/incoming with $python: nothing was moved"
    echo "inspect.sh: $folder/incoming could not be listed with $python, see $log" >&2
    exit 2
fi

# --output has all rows or does not exist: no file is moved because of half a batch.
say "begin $rows"
child=
trap '[[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true' INT TERM
"$uadctl" score "$model" "$folder/incoming" "${options[@]}" --output "$rows" >/dev/null 2>>"$log" 9>&- &
child=$!
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do # a signal has ended the waiting, not the program
    code=0
    wait "$child" || code=$?
done
child=

case $code in
    0 | 1 | 4) ;;
    130 | 143)
        say "interrupted: nothing was moved"
        exit 130
        ;;
    *)
        say "failed with exit code $code: nothing was moved"
        echo "inspect.sh: uadctl ended with exit code $code, see $log" >&2
        exit "$code"
        ;;
esac
# An exit code of 1 without rows is a failure of uadctl itself, not of an image.
if [[ ! -f $rows ]]; then
    say "failed with exit code $code and without rows: nothing was moved"
    echo "inspect.sh: uadctl ended with exit code $code and wrote no rows, see $log" >&2
    exit 2
fi

# JSON lines hold any name: those that are no UTF-8 have their exact bytes in path_b64.
moved=0
"$python" - "$rows" "$folder" "$stamp-$$" "$before" >>"$log" 2>&1 9>&- <<'END' || moved=$?
import base64, json, os, sys

rows, folder, stamp, before = sys.argv[1:]
folder = os.fsencode(folder)
incoming = os.path.join(folder, b"incoming")
with open(before, encoding="ascii") as stream:
    before = json.load(stream)
count = {}
failed = stay = 0


def free(path):
    """A name that is not taken; nobody else takes it meanwhile, for there is a lock."""
    head, tail = os.path.split(path)
    number = 0
    while os.path.lexists(path):
        number += 1
        path = os.path.join(head, b"%s-%d-%s" % (os.fsencode(stamp), number, tail))
    return path


def as_before(path):
    """Whether it is the file that was there when the batch began; an OSError if there is none."""
    head, tail = os.path.split(path)
    try:
        facts = os.stat(path)
    except OSError:
        facts = os.lstat(path)
    state = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
    return before.get(os.fsdecode(os.path.join(os.path.realpath(head), tail))) == state


def move(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, free(target))


with open(rows, encoding="utf-8") as stream:
    for line in stream:
        row = json.loads(line)
        exact = row.get("path_b64")
        path = base64.b64decode(exact) if exact else os.fsencode(row["path"])
        where = "broken" if row["status"] != "ok" else row["verdict"] or "review"
        target = os.path.join(folder, where.encode(), os.path.relpath(path, incoming))
        try:
            if not as_before(path):
                stay += 1
                print(f"stays, to be judged the next time: {row['path']!r}: came or changed while the batch ran")
                continue
            move(path, target)
        except OSError as error:  # taken away by somebody else, say
            failed += 1
            print(f"not moved: {row['path']!r}: {error.strerror or error}")
            continue
        count[where] = count.get(where, 0) + 1
        if where == "broken":
            print(f"broken: {row['path']!r}: {row['reason']}")
print("moved: " + (", ".join(f"{count[name]} {name}" for name in sorted(count)) or "none") + (f"; {stay} stay" if stay else ""))
sys.exit(1 if failed else 0)
END

say "end $rows, exit code $code"
if [[ $moved -ne 0 ]]; then
    echo "inspect.sh: some files could not be moved, see $log" >&2
    exit 1
fi
exit "$code"
