"""Words that mean something in an answer: functions, constants, units, currencies, connectives."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = _words(
    """sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh coth sech csch
    arsinh arcosh artanh arcsinh arccosh arctanh asinh acosh atanh ln log lg exp abs sqrt cbrt floor ceil max min gcd
    lcm det sgn sign Re Im arg tg ctg cosec Abs binomial binom comb nCr factorial"""
)
ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "sign": "sgn", "tg": "tan", "ctg": "cot",
    "cosec": "csc", "Abs": "abs", "arctg": "arctan", "binomial": "binom", "comb": "binom", "nCr": "binom",
}  # fmt: skip
CONSTANTS = {
    "pi": "pi", "infty": "infty", "infinity": "infty", "inf": "infty", "oo": "infty", "Infinity": "infty",
    "emptyset": "empty", "varnothing": "empty", "imath": "i", "exponentialE": "e", "uppi": "pi", "upi": "pi",
}  # fmt: skip
GREEK = _words(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon phi chi
    psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"""
)
VARIANTS = {
    "varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho", "varsigma": "sigma",
    "varpi": "pi_", "varkappa": "kappa", "jmath": "j", "cdots": "ldots", "dots": "ldots", "dotsc": "ldots",
    "dotsb": "ldots", "dotsm": "ldots", "dotso": "ldots",
}  # fmt: skip
AND, OR = frozenset({"and", "和", "及", "与", "且", "und", "et"}), frozenset({"or", "或", "oder", "ou"})
PERCENT = frozenset({"percent", "percentage", "pct", "percents", "percentages"})
# Words that say under what condition something holds, or that it is something else: never a unit.
CONDITIONS = frozenset(
    {"if", "when", "where", "for", "otherwise", "with", "unless", "provided", "such", "while", "whenever"}
)
NO_UNITS = CONDITIONS | _words(
    """not no is isn't isnt are was wrong incorrect false but except than less more least most over under about
    approximately between from to plus minus times then else nor never only at by versus vs either neither both zero
    one two three four five six seven eight nine ten eleven twelve twenty"""
)
DEGREES = frozenset({"deg", "degree", "degrees", "度"})
MULTIPLIERS = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "万": 10**4,
    "亿": 10**8,
}
# Units by their canonical name. Plain letters behind a number are a unit only if they stand here with two letters or
# more: a single letter is a variable (`2s`), unless it is set as text (`2\text{ s}`).
_UNITS = {
    "mm": "mm millimeter millimeters millimetre millimetres 毫米",
    "cm": "cm cms centimeter centimeters centimetre centimetres 厘米",
    "dm": "dm decimeter decimeters decimetre decimetres 分米",
    "m": "m meter meters metre metres mtr 米",
    "km": "km kms kilometer kilometers kilometre kilometres 千米 公里",
    "um": "um micrometer micrometers micron microns",
    "nm": "nm nanometer nanometers nanometre nanometres",
    "inch": "in inch inches 英寸",
    "foot": "ft foot feet 英尺",
    "yard": "yd yds yard yards",
    "mile": "mi mile miles 英里",
    "mg": "mg milligram milligrams",
    "g": "g gm gram grams 克",
    "kg": "kg kgs kilogram kilograms kilo kilos 千克 公斤",
    "ton": "t ton tons tonne tonnes 吨",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "ml": "ml mL milliliter milliliters millilitre millilitres 毫升",
    "l": "l L liter liters litre litres 升",
    "gallon": "gal gallon gallons",
    "ms": "ms millisecond milliseconds",
    "s": "s sec secs second seconds 秒",
    "min": "min mins minute minutes 分钟",
    "h": "h hr hrs hour hours 小时",
    "day": "day days 天",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years 年",
    "am": "am a.m",
    "pm": "pm p.m",
    "mph": "mph",
    "kmh": "kmh kph kmph km/h km/hr",
    "m/s": "m/s",
    "Hz": "Hz hertz",
    "kHz": "kHz kilohertz",
    "N": "N newton newtons",
    "J": "J joule joules",
    "kJ": "kJ kilojoule kilojoules",
    "W": "W watt watts",
    "kW": "kW kilowatt kilowatts",
    "Pa": "Pa pascal pascals",
    "V": "V volt volts",
    "A": "amp amps ampere amperes",
    "ohm": "ohm ohms Omega 欧姆",
    "K": "K kelvin kelvins",
    "mol": "mol mole moles",
    "eV": "eV",
    "rad": "rad radian radians",
    "degree": "deg degree degrees 度",
    "dollar": "dollar dollars USD",
    "cent": "cent cents",
    "euro": "euro euros EUR €",
    "pound sterling": "GBP £",
    "yen": "yen JPY",
    "yuan": "yuan RMB CNY 元",
    "rupee": "rupee rupees Rs INR",
}
UNIT_NAMES: dict[str, str] = {alias: name for name, aliases in _UNITS.items() for alias in aliases.split(" ")}
# Two letters and more that are also how products of variables are written stay products.
PLAIN_UNITS = frozenset(
    alias for alias in UNIT_NAMES if len(alias) > 1 and alias.isascii() and alias not in {"in", "mi", "Omega"}
) | _words(
    """unit units square cubic sq cu point points apple apples student students people person persons way ways time
    times coin coins marble marbles hectare hectares acre acres revolution revolutions rev revs rpm per hundred
    thousand million billion trillion"""
)
CURRENCY_SIGNS = frozenset("€£¥₹₽₩₪₫฿₴₺₿¢￥")


def unit_name(text: str) -> str | None:
    """Return the canonical name of a unit, None if it is none that is known.

    Args:
        text: such as `cm^2`, `kilometers per hour`, `square units`.
    """
    words = text.replace(".", "").replace("^1", "").split()
    if not words:
        return None
    power = ""
    if words[0] in ("square", "sq"):
        words, power = words[1:], "^2"
    elif words[0] in ("cubic", "cu"):
        words, power = words[1:], "^3"
    parts = [part for word in words for part in word.replace("/", " / ").replace("*", " * ").split()]
    found = []
    for part in parts:
        base, caret, exponent = part.partition("^")
        if part in ("per", "/"):
            found.append("/")
        elif part == "*":
            continue
        elif base in UNIT_NAMES or base.casefold() in UNIT_NAMES:
            found.append((UNIT_NAMES.get(base) or UNIT_NAMES[base.casefold()]) + caret + exponent)
        else:
            return None
    return " ".join(found) + power if found else None


# Words for what has a sign, without blanks.
SAME_AS_SIGN = dict.fromkeys(("allrealnumbers", "allreals", "realnumbers", "anyrealnumber"), "R")
SAME_AS_SIGN |= dict.fromkeys(("nosolution", "nosolutions", "norealsolution", "norealsolutions", "emptyset"), "empty")
SAME_AS_SIGN |= {"infinity": "infty"}
SAME_AS_SIGN |= dict.fromkeys(("dne", "doesnotexist"), "none")
