# shellcheck shell=bash
# The table for users: what each client does here, in nine columns, made of the rows of the run; and where a client cannot, why. It is printed at
# the end, and it is part of docs/clients.md.

columns=('anonymous pull' 'authenticated pull' 'push' 'push denied' 'mirror without key' 'upstream down' 'resume after cut' 'delete' 'referrers')

# The rows that show a column: a cell is ok when all of them are that this client has.
declare -A shown_by=(
    ['anonymous pull']='login: pull without one|watched: no update, without a login|watched: an update after a push'
    ['authenticated pull']='login: a private image|watched: a private image'
    ['push']='push|login: push, pull, logout, pull'
    ['push denied']='login: no push without one|login: a private image'
    ['mirror without key']='docker.io names by the mirror'
    ['upstream down']='gone: pull by tag|watched: its upstream is gone'
    ['resume after cut']='cut off: the rest is fetched'
    ['delete']='delete|delete signatures'
    ['referrers']='referrers as the upstream has them'
)

declare -A why_not=()

# cannot COLUMN REASON CLIENT...
cannot() {
    local client column=$1 reason=$2
    shift 2
    for client in "$@"; do why_not[$column|$client]=$reason; done
}

cannot 'mirror without key' 'knows no mirrors: its images go by whole names' crane oras helm cosign watchtower
cannot 'resume after cut' 'begins again with a layer that was cut off' podman buildah skopeo crane oras
cannot 'resume after cut' 'fetches nothing that is large' helm cosign watchtower
cannot 'delete' 'deletes nothing in a registry' docker moby podman buildah containerd helm buildkit watchtower
cannot 'referrers' 'does not ask for referrers, in this version' docker moby podman buildah skopeo containerd crane helm buildkit watchtower
cannot 'push' 'pushes nothing' watchtower
cannot 'push denied' 'pushes nothing' watchtower

# outcome COLUMN CLIENT: ok, FAILED, or nothing if no row shows it
outcome() {
    local row rows found=''
    IFS='|' read -ra rows <<<"${shown_by[$1]}"
    for row in "${rows[@]}"; do
        case ${result[$row|$2]:-} in
        FAILED) found=FAILED ;;
        ok) found=${found:-ok} ;;
        esac
    done
    echo "$found"
}

# matrix: the table, and below it the reasons. A cell that has neither, or both, is a mistake of this file's.
matrix() {
    local client column found reason line index
    local -a reasons=() lines=()
    line='| client | version |'
    for column in "${columns[@]}"; do line+=" $column |"; done
    lines+=("$line")
    for client in "${clients[@]}"; do
        line="| $client | ${version_of[$client]} |"
        for column in "${columns[@]}"; do
            found=$(outcome "$column" "$client")
            reason=${why_not[$column|$client]:-}
            if [[ -n $found && -n $reason || -z $found$reason ]]; then
                found=UNKNOWN
            elif [[ -n $reason ]]; then
                for ((index = 0; index < ${#reasons[@]}; index++)); do
                    [[ ${reasons[index]} != "$reason" ]] || break
                done
                reasons[index]=$reason
                found="- ($((index + 1)))"
            fi
            line+=" $found |"
        done
        lines+=("$line")
    done
    printf '%s\n' "${lines[@]}" | aligned
    printf '\n'
    for ((index = 0; index < ${#reasons[@]}; index++)); do printf '%d. %s\n' $((index + 1)) "${reasons[index]}"; done
}

# aligned: a table of Markdown whose columns are as wide as they have to be, with the line below its heads
aligned() {
    awk -F ' *[|] *' '
        { for (i = 2; i < NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } columns = NF }
        END {
            for (row = 1; row <= NR; row++) {
                for (i = 2; i < columns; i++) printf "| %-" width[i] "s ", cell[row, i]
                print "|"
                if (row > 1) continue
                for (i = 2; i < columns; i++) { printf "| "; for (n = 0; n < width[i]; n++) printf "-"; printf " " }
                print "|"
            }
        }'
}

matrix_begins='<!-- The table: written by tests/clients/run --write-docs -->'
matrix_ends='<!-- The table ends here -->'

# page_agrees FILE: whether that page has this table, whatever the versions, and nothing in it went wrong
page_agrees() {
    refused grep -E 'FAILED|UNKNOWN' "$work/matrix.md"
    diff <(without_versions <"$work/matrix.md") \
        <(awk -v begins="$matrix_begins" -v ends="$matrix_ends" '$0 == ends { inside = 0 } inside; $0 == begins { inside = 1 }' "$1" |
            without_versions)
}

without_versions() { awk -F ' *[|] *' '/^[|] -/ || /^$/ { next } /^[|]/ { $3 = "" } { print }'; }

# write_page FILE: puts the table where the other was, if nothing in it went wrong
write_page() {
    ! grep -qE 'FAILED|UNKNOWN' "$work/matrix.md" || return 0
    awk -v begins="$matrix_begins" -v ends="$matrix_ends" -v table="$work/matrix.md" '
        $0 == ends { inside = 0 }
        !inside { print }
        $0 == begins { inside = 1; print ""; while ((getline line < table) > 0) print line; print "" }' "$1" >"$work/page.md"
    grep -qxF "$matrix_begins" "$work/page.md" || die "$1 has no place for the table"
    cat "$work/page.md" >"$1"
}
