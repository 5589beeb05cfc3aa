# Sums up what engine.sh measured: from lines "model, threads, batch, who, milliseconds" (tabs
# between), who being convd, peak (its percentage of the peak), peer, or spin and block (ONNX Runtime's
# two ways to wait), to a Markdown table with a row for each model and a column for each setting.
BEGIN { FS = "\t" }

{
    if (!($1 in model_seen)) {
        model_seen[$1] = 1
        models[++model_count] = $1
    }
    setting = $2 SUBSEP $3
    if (!(setting in setting_seen)) {
        setting_seen[setting] = 1
        settings[++setting_count] = setting
    }
    key = $1 SUBSEP setting SUBSEP $4
    if ($5 !~ /^[0-9]/)
        why[key] = $5
    else
        values[key, ++count[key]] = $5 + 0
}

# Of all values under the key; 0 without any, or when one run failed.
function median(key, i, j, n, x, v) {
    n = key in why ? 0 : count[key]
    for (i = 1; i <= n; i++) {
        x = values[key, i]
        for (j = i - 1; j > 0 && v[j] > x; j--)
            v[j + 1] = v[j]
        v[j + 1] = x
    }
    return n == 0 ? 0 : n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}

function digits(x) {
    return sprintf(x >= 1000 ? "%.0f" : "%.4g", x)
}

function note(text) {
    if (!(text in note_of)) {
        notes[++note_count] = text
        note_of[text] = note_count
    }
    return "failed [" note_of[text] "]"
}

# Milliseconds of the peer: of its best way to wait.
function peer_ms(cell, a, b) {
    a = median(cell SUBSEP "spin")
    b = median(cell SUBSEP "block")
    if (a == 0 && b == 0)
        return median(cell SUBSEP "peer")
    return b == 0 || (a > 0 && a < b) ? a : b
}

function text(model, setting, cell, own, other, left, right) {
    cell = model SUBSEP setting
    if (!(cell SUBSEP "convd" in count) && !(cell SUBSEP "convd" in why))
        return ""
    own = median(cell SUBSEP "convd")
    other = peer_ms(cell)
    right = own ? digits(own) : note(model ": convd " why[cell, "convd"])
    if (peer == "")
        return right (own ? sprintf(" (%.0f %%)", median(cell SUBSEP "peak")) : "")
    left = other ? digits(other) : note(model ": " peer " " why[cell, "peer"])
    if (!own || !other)
        return left " / " right
    # The default model is small and measured on its own terms: it has no part in the mean.
    if (model != "lenet5") {
        logs[setting] += log(other / own)
        number[setting]++
    }
    return left " / " right sprintf(" = **%.2f**", other / own)
}

# One thread before two, small batches before large ones.
function sort_settings(i, j, x, a, b) {
    for (i = 2; i <= setting_count; i++) {
        x = settings[i]
        split(x, a, SUBSEP)
        for (j = i - 1; j > 0; j--) {
            split(settings[j], b, SUBSEP)
            if (b[1] + 0 < a[1] + 0 || (b[1] + 0 == a[1] + 0 && b[2] + 0 <= a[2] + 0))
                break
            settings[j + 1] = settings[j]
        }
        settings[j + 1] = x
    }
}

END {
    if (model_count == 0)
        exit
    sort_settings()
    if (peer != "")
        print "Milliseconds for a batch: " peer " / convd = how many times as fast convd is.\n"
    else
        print "Milliseconds for a batch (share of the multiply-adds' peak).\n"
    line = "| model |"
    rule = "|---|"
    for (s = 1; s <= setting_count; s++) {
        split(settings[s], part, SUBSEP)
        line = line sprintf(" %d thread%s, batch %d |", part[1], part[1] == 1 ? "" : "s", part[2])
        rule = rule "--:|"
    }
    print line "\n" rule
    for (m = 1; m <= model_count; m++) {
        line = "| " models[m] " |"
        for (s = 1; s <= setting_count; s++)
            line = line " " text(models[m], settings[s]) " |"
        print line
    }
    line = ""
    for (s = 1; s <= setting_count; s++) {
        x = settings[s]
        line = line (number[x] ? sprintf(" **%.2f** |", exp(logs[x] / number[x])) : " |")
        all += logs[x]
        total += number[x]
    }
    if (total > 0)
        printf "| geometric mean%s: **%.2f** |%s\n",
            "lenet5" in model_seen ? " without lenet5" : "", exp(all / total), line
    for (n = 1; n <= note_count; n++)
        printf "%s[%d] %s\n", n == 1 ? "\n" : "", n, notes[n]
}
