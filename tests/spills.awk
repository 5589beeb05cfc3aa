# Reads `objdump -d --no-show-raw-insn` of x86-64 objects and prints each hot loop that keeps its
# sums in memory: "object: function: what is wrong". For lint.sh.
#
# A loop is what lies between a jump backwards and its target, a hot one holds no other loop and at
# least MIN_FMAS fused multiply-adds. It may store a vector to the stack for every FMAS_A_STORE of
# them: a register too few now and then costs nothing, an array of sums that did not become
# registers stores as often as it adds. Where sums live throughout the loop (tiles), a store to
# anywhere is one too many. Left alone are functions that write results in their loops and the
# transforms, whose 36 values no register file holds.
BEGIN {
    MIN_FMAS = 4
    FMAS_A_STORE = 8
    vector_store = "%[xyz]mm[0-9]+(\\{[^}]*\\})*,[^,%]*\\("
}

/file format elf/ {
    end_function()
    object = $1
}

/^[0-9a-f]+ <.*>:$/ {
    end_function()
    name = substr($2, 2, length($2) - 3)
    next
}

/^ *[0-9a-f]+:\t/ {
    tab = index($0, "\t")
    at[++count] = number(substr($0, 1, tab - 2))
    text[count] = substr($0, tab + 1)
    if (text[count] ~ /^mov +%rsp,%rbp/)
        frame = "\\(%r[sb]p"
    else if (text[count] ~ /^j[a-z]+ +[0-9a-f]+ </) {
        split(text[count], word, " +")
        head = number(word[2])
        if (head <= at[count])
            tail[head] = count
    }
}

END {
    end_function()
    if (hot == 0)
        print "objects: no loop with multiply-adds is found, so nothing is checked"
}

# Hexadecimal digits, made equally long: they compare as strings do.
function number(digits) {
    gsub(/ /, "", digits)
    return substr("0000000000000000", length(digits) + 1) digits
}

function end_function(h, i, last, inner) {
    if (name !~ /_act|_map_|softmax|layer_norm|winograd_(in|out)put/)
        for (h in tail) {
            inner = 1
            for (i in tail)
                if (i > h && tail[i] <= tail[h])
                    inner = 0
            if (inner)
                check_loop(h, tail[h])
        }
    split("", tail)
    count = 0
    frame = "\\(%rsp"
}

function check_loop(head, last, i, fmas, stores, store) {
    store = name ~ /conv_tile|winograd_product|_gemm_/ ? vector_store : vector_store substr(frame, 3)
    for (i = last; i > 0 && at[i] >= head; i--) {
        if (text[i] ~ /^vfn?m(add|sub)[0-9]/)
            fmas++
        else if (text[i] ~ store)
            stores++
    }
    if (fmas < MIN_FMAS)
        return
    hot++
    if (stores * FMAS_A_STORE > fmas)
        printf "%s %s: %d vector stores in a loop of %d multiply-adds\n", object, name, stores, fmas
}
