"""Name units of measure: one canonical name for all spellings; words that can be no unit."""

import re

_ALIASES = """
mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre|nm nanometer
in inch inches|ft foot feet|yd yard|mi mile|g gram gm|kg kilogram|mg milligram|lb pound lbs|oz ounce
s sec second|min minute mins|h hr hour hrs|day|week|month|year yr|ml mL milliliter millilitre
L liter litre|gal gallon|mph miles/hour|km/h kph kmh kilometers/hour kilometres/hour|m/s ft/s
dollar usd buck|cent ¢|eur euro|pound-sterling gbp|deg degree|rad radian|% percent pct percentage
rupee inr rs|yen jpy|yuan cny rmb
cm^2 squarecentimeter squarecm sqcm|m^2 squaremeter squaremetre sqm squarem
in^2 squareinch squareinches sqin squarein|ft^2 squarefoot squarefeet sqft squareft
km^2 squarekilometer squarekm|mi^2 squaremile
cm^3 cubiccentimeter cubiccm cc|m^3 cubicmeter cubicmetre cubicm|in^3 cubicinch cubicinches cubicin
ft^3 cubicfoot cubicfeet cubicft|yd^2 squareyard|yd^3 cubicyard|unit|unit^2 squareunit squnit
unit^3 cubicunit|J joule|kJ kilojoule|N newton|W watt|kW kilowatt|V volt|A ampere amp|Hz hertz
kHz|MHz|GHz|kV|mV|mA|kN|MW|MJ|mW|dm decimeter decimetre|dm^2 squaredecimeter|dm^3 cubicdecimeter
acre|hectare|bit|byte|inch|ton tonne|knot|liter/minute|K kelvin|Pa pascal|kPa kilopascal|mol mole
C coulomb|MeV|eV|erg|rpm|dB|u amu|AU|pc parsec
"""
_CANONICAL: dict[str, str] = {}
for _row in _ALIASES.replace("\n", "|").split("|"):
    _names = _row.split()
    for _name in _names:
        _CANONICAL.setdefault(_name, _names[0])  # the first row wins: `inch` is `in`

CURRENCY_SIGNS = {"euro": "eur", "pounds": "pound-sterling", "yen": "yen", "rupee": "rupee"}
_PLAIN = """
    per square cubic sq cu KB MB GB TB kB C F
    men cup box car cat dog egg pen hat bus kid way set row
"""
PLAIN_UNITS = frozenset([*(name for name in _CANONICAL if name.isalpha()), *_PLAIN.split()])
"""Words that may stand behind a number without any mark."""

_CJK_UNITS = """
    元 yuan 米 m 厘米 cm 毫米 mm 分米 dm 千米 km 公里 km 千克 kg 公斤 kg 克 g 吨 ton 升 L 毫升 mL
    平方米 m^2 平方厘米 cm^2 平方分米 dm^2 平方千米 km^2 立方米 m^3 立方厘米 cm^3 立方分米 dm^3
    秒 s 分钟 minute 小时 hour 天 day 周 week 月 month 年 year 度 deg 倍 times
    руб rouble см cm м m км km кг kg мм mm г g
"""
_CJK_WORDS = _CJK_UNITS.split()
CJK_UNITS: dict[str, str] = dict(zip(_CJK_WORDS[::2], _CJK_WORDS[1::2], strict=True))
CURRENCIES = {"dollar", "eur", "pound-sterling", "rupee", "yen", "yuan"}

# A word like these after a number is a remark or a second answer, never a unit.
_REMARK_WORDS = """
    not isnt isn wrong incorrect or maybe unless but and either neither nor else instead approx no
    is are was the answer than if when except false true question unknown undefined since because
    about roughly to plus minus times over mod remainder r greater least most factorial squared
    cubed thousand million billion trillion hundred dozen half third quarter
"""
_REMARKS = set(_REMARK_WORDS.split())
_CUT = re.compile(r"[\s{}$~]+|\\[ ,;]")
_PER = re.compile(r"\bper\b|\\cdot|\*")
_POWER = re.compile(r"\^\(?\{?(-?\d+)\}?\)?")
_LETTERS = re.compile(r"[A-Za-z]+")
MAX_UNIT_WORDS = 5


def is_unit(word: str) -> bool:
    """Say whether a bare run of at least two letters is a known unit."""
    return len(word) > 1 and _lookup(word) is not None


def _lookup(word: str) -> str | None:
    # As written first: mW and MW, or K and k, are different units.
    known = _CANONICAL.get(word) or _CANONICAL.get(word.lower())
    if known is None and word.endswith("s"):
        known = _CANONICAL.get(word[:-1]) or _CANONICAL.get(word[:-1].lower())
    return known


def unit_name(text: str) -> str | None:
    """Return the canonical name of the unit text; None when text is a remark and no unit."""
    text = text.strip(" .,()")
    listed = [w.lower() for w in _LETTERS.findall(text)]
    if listed == ["times"]:
        return "times"
    if not listed or len(listed) > MAX_UNIT_WORDS or any(w in _REMARKS for w in listed):
        return "%" if text in ("\\%", "%") else None
    lowered = text.lower().replace("'", "")
    if lowered.replace(".", "") in ("am", "pm", "a m", "p m"):
        return lowered.replace(".", "").replace(" ", "")
    text = _POWER.sub(r"^\1", _PER.sub("/", text))
    flat = _CUT.sub("", text)
    found = _lookup(flat)
    if found is None and "/" in flat:
        over, _, under = flat.partition("/")
        found = f"{_lookup(over) or over.lower()}/{_lookup(under) or under.lower()}"
    elif found is None and "^" in flat:
        base, _, power = flat.partition("^")
        found = f"{_lookup(base) or base.lower()}^{power}"
    return found or flat.lower().rstrip("s")  # any other noun: `5 apples` has the unit apple
