# Flattens a JSON document: one line "path<TAB>value" for each string, number and word.
# Object names and array positions are joined with "/". A line break inside a string becomes a space.
function value(path,    name, n) {
	skip()
	if (eat("{")) {
		skip()
		while (!eat("}") && text != "") {
			name = string(); skip(); eat(":")
			value(path == "" ? name : path "/" name)
			skip(); eat(","); skip()
		}
	} else if (eat("[")) {
		n = 0; skip()
		while (!eat("]") && text != "") { value(path "/" n++); skip(); eat(","); skip() }
	} else if (substr(text, 1, 1) == "\"") {
		print path "\t" string()
	} else if (match(text, /^[^]},[:space:]]+/)) {
		print path "\t" substr(text, 1, RLENGTH); text = substr(text, RLENGTH + 1)
	} else text = substr(text, 2)
}
function skip() { if (match(text, /^[[:space:]]+/)) text = substr(text, RLENGTH + 1) }
function eat(c) { if (substr(text, 1, 1) != c) return 0; text = substr(text, 2); return 1 }
function string(    raw, out, c) {
	if (!match(text, /^"([^"\\]|\\.)*"/)) { text = ""; return "" }
	raw = substr(text, 2, RLENGTH - 2); text = substr(text, RLENGTH + 1)
	out = ""
	while (match(raw, /\\./)) {
		c = substr(raw, RSTART + 1, 1)
		out = out substr(raw, 1, RSTART - 1)
		raw = substr(raw, RSTART + 2)
		if (c == "n" || c == "r" || c == "t" || c == "b" || c == "f") out = out " "
		else if (c == "u") { out = out ascii(substr(raw, 1, 4)); raw = substr(raw, 5) }
		else out = out c
	}
	return out raw
}
function ascii(hex,    i, n) {
	for (i = 1; i <= 4; i++) n = n * 16 + index("0123456789abcdef", tolower(substr(hex, i, 1))) - 1
	return n >= 32 && n < 127 ? sprintf("%c", n) : "?"
}
{ text = text $0 " " }
END { value("") }
