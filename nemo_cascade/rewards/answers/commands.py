"""Commands of LaTeX by what they do to an answer."""

# Commands whose argument is text: words, units, names of functions.
TEXT = frozenset(
    {
        "emph",
        "hbox",
        "mathord",
        "mathrm",
        "mathsf",
        "mathtt",
        "mbox",
        "operatorname",
        "rm",
        "text",
        "textbf",
        "textit",
        "textmd",
        "textnormal",
        "textrm",
        "textsf",
        "texttt",
        "textup",
    }
)
# Commands that change only how their argument looks.
STYLES = frozenset(
    {
        "bm",
        "boldsymbol",
        "boxed",
        "cancel",
        "displaylines",
        "ensuremath",
        "fbox",
        "mathbf",
        "mathcal",
        "mathfrak",
        "mathit",
        "mathop",
        "mathscr",
        "overrightarrow",
        "pmb",
        "smash",
        "strut",
        "underline",
        "vec",
    }
)
# Commands that make another name of their argument.
ACCENTS = frozenset(
    {
        "bar",
        "ddot",
        "dot",
        "hat",
        "overleftarrow",
        "overline",
        "overset",
        "tilde",
        "underset",
        "widehat",
        "wideparen",
        "widetilde",
    }
)
# Commands and the sign that each is.
SIGNS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "~", "thickapprox": "~", "simeq": "~", "sim": "~", "equiv": "==", "in": "in",
    "notin": "notin", "cup": "cup", "cap": "cap", "setminus": "setminus", "backslash": "setminus",
    "smallsetminus": "setminus", "pm": "pm", "mp": "mp", "times": "*", "cdot": "*", "ast": "*", "div": "/",
    "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "Vert": "||", "lVert": "||", "rVert": "||", "mod": "mod",
    "bmod": "mod", "colon": ":", "land": "and", "wedge": "and", "lor": "or", "vee": "or", "prime": "'",
    "circ": "circ", "degree": "degree", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]",
    "langle": "<<", "rangle": ">>", "lfloor": "\\lfloor", "rfloor": "\\rfloor", "lceil": "\\lceil",
    "rceil": "\\rceil", "cr": "\\\\", "subset": "subset", "subseteq": "subset", "colonequals": "=", "coloneqq": "=",
    "iff": "iff", "Leftrightarrow": "iff", "Longleftrightarrow": "iff", "top": "top", "to": "to", "rightarrow": "to",
}  # fmt: skip
# Letters of blackboard bold that are sets of numbers.
NUMBER_SETS = frozenset("NZQRC")
