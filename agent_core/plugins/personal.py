"""Finds personal data in text: by its form, then by its check digits, its number plan and the words around it.

Cards: ISO/IEC 7812 (Luhn) and the networks' number ranges. IBAN: ISO 13616. Resident ids: GB 11643. Phones: the number
plans of libphonenumber. A run of digits that could be anything is taken for a phone number only where words say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

from agent_core.errors import ConfigError

Kind = Literal["email", "phone", "card", "iban", "cn_id"]
KINDS: tuple[Kind, ...] = get_args(Kind)

REGIONS = ("US", "GB", "CN", "DE", "FR", "ES", "IT", "NL", "CH", "AT", "IN", "JP", "AU", "BR")
"""Where phone numbers written without their country code are looked for."""


class Found(NamedTuple):
    """One finding: the text from `start` to `end` is of this kind."""

    start: int
    end: int
    kind: Kind


# Digits and signs of other scripts, and the many dashes and spaces, one for one, so that places stay the same.
_PLAIN = {zero + digit: str(digit) for zero in (0xFF10, 0x0660, 0x06F0, 0x0966) for digit in range(10)}
_PLAIN |= {ord(dash): "-" for dash in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"}
_PLAIN |= {ord(space): " " for space in "\t\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"}
_PLAIN |= {ord("＠"): "@", ord("．"): ".", ord("＋"): "+", ord("（"): "(", ord("）"): ")"}

# Letters of Latin, Greek and Cyrillic: Chinese and Japanese words stand right beside an address, without a space.
_LETTERS = r"A-Za-z\u00c0-\u024f\u0370-\u052f"
_EMAIL = re.compile(
    rf"(?<![{_LETTERS}0-9_.+-])[{_LETTERS}0-9_][{_LETTERS}0-9_.!#$%&'*+/=?^`{{|}}~-]{{0,63}}"
    rf"@(?:[{_LETTERS}0-9](?:[{_LETTERS}0-9-]{{0,61}}[{_LETTERS}0-9])?\.)+(?:[{_LETTERS}]{{2,63}}|xn--[a-z0-9-]+)(?![A-Za-z0-9-])"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}", re.IGNORECASE | re.ASCII)
_CN_ID = re.compile(r"(?<![0-9A-Za-z])\d{17}[\dXx](?![0-9A-Za-z])", re.ASCII)
_DIGITS = re.compile(r"(?<![A-Za-z\d])(?<!\d[.,])\d+(?:[ -]\d+)*(?![A-Za-z]|\.\d)", re.ASCII)
_PHONE = re.compile(
    r"(?<![A-Za-z0-9_/#@-])(?<!\d[.,:])(?:(?:\+|00|011[ -])[ ]?)?\(?\d(?:[ ./-]{0,3}\(?\d\)?){5,16}"
    r"(?:[ ]?(?:x|ext\.?)[ ]?\d{1,6})?(?![\dA-Za-z_@%€$£]|[.,:/-]\d)",
    re.IGNORECASE | re.ASCII,
)

_NETWORKS = (
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"30[0-59]|3[689]"), range(14, 20)),  # Diners Club
    (re.compile(r"6011|64[4-9]|65|62"), range(16, 20)),  # Discover, UnionPay
    (re.compile(r"352[89]|35[3-8]"), range(16, 20)),  # JCB
    (re.compile(r"2131|1800"), (15,)),  # JCB, older
    (re.compile(r"220[0-4]"), range(16, 20)),  # Mir
    (re.compile(r"50|5[6-9]|6"), range(12, 20)),  # Maestro
)
_CARD_WORDS = re.compile(
    r"card|\bcc\b|credit|debit|visa|master|maestro|amex|karte|tarjeta|carte|卡", re.IGNORECASE
)
_PHONE_WORDS = re.compile(
    r"phone|\btel\b|tel[.:]|\bt[eé]l[eéè]|telefon|\bcell|mobil|handy|\bcall\b|\bcalled\b|\bdial|\bring\b|\btext me\b"
    r"|\bsms\b|\bfax\b|whats ?app|reach (?:me|us|him|her|them)|contact|answering|hotline|landline"
    r"|extension|电话|手机|致电|拨打|联系|热线|座机|电話|携帯|전화",
    re.IGNORECASE,
)
# Right before a number these say that it is no phone number, whatever it looks like.
_OTHER_WORDS = re.compile(
    r"(?:\b(?:order|invoice|ticket|case|ref(?:erence)?|tracking|parcel|shipment|customer|account|serial|part|sku|isbn|"
    r"zip|po|postcode|version|row|page|id|item|article|product|flight|amount|total|price|size|year|code|pin|room|card|"
    r"policy|patent|vin|license|licence|passport|ssn|social security|routing|iban|bestellung|rechnung|commande|pedido)"
    r"|订单|单号|编号|账号|卡号|发票|快递|运单)(?:\s*(?:number|num|nr|no|id|code|号码?|#|is|was|:|：|\.|of|=|为|是)){0,4}\s*[#:]?\s*$",
    re.IGNORECASE,
)
_NO_PHONE = (
    re.compile(  # dates, spans of years, IP addresses, US social security numbers and ZIP codes, ISBNs
        r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)?\d{2}|\d{1,3}(?:\.\d{1,3}){3}"
        r"|(?:19|20)\d{2} ?- ?(?:19|20)\d{2}|\d{3}-\d{2}-\d{4}|\d{5}-\d{4}|97[89][- ]?\d[\d -]{8,12}"
    )
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?: \d{3})+")
_BEFORE, _AFTER = 48, 24


def finders(kinds: Iterable[str], regions: Sequence[str]) -> list[Callable[[str], Iterator[Found]]]:
    """The finders of these kinds, in the order of their say: what one claims, the next leaves alone.

    Raises ConfigError for an unknown kind or where a library is missing.
    """
    wanted = set(kinds)
    if unknown := wanted - set(KINDS):
        raise ConfigError(f"redact knows no {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    needed = {"phone": "phonenumbers", "card": "stdnum", "iban": "stdnum", "cn_id": "stdnum"}
    missing = sorted({name for kind, name in needed.items() if kind in wanted and find_spec(name) is None})
    if missing:
        raise ConfigError(f"redact needs {' and '.join(missing)}: pip install 'sampan[redact]'")
    by_kind: dict[str, Callable[[str], Iterator[Found]]] = {
        "email": emails,
        "iban": ibans,
        "cn_id": cn_ids,
        "card": cards,
        "phone": lambda text: phones(text, regions),
    }
    return [finder for kind, finder in by_kind.items() if kind in wanted]


def find(text: str, finders: Sequence[Callable[[str], Iterator[Found]]]) -> list[Found]:
    """All findings in the text, in its order, none overlapping."""
    text = text.translate(_PLAIN)
    found: list[Found] = []
    for finder in finders:
        for one in finder(text):
            if all(one.end <= other.start or one.start >= other.end for other in found):
                found.append(one)
    return sorted(found)


def emails(text: str) -> Iterator[Found]:
    """E-mail addresses, international ones too."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        yield Found(match.start(), match.end(), "email")


def ibans(text: str) -> Iterator[Found]:
    """IBANs with right check digits and the form of their country, in groups or not."""
    place = 0
    while match := _IBAN.search(text, place):
        end = _iban_end(match[0])
        place = match.start() + (end or 2)
        if end:
            yield Found(match.start(), match.start() + end, "iban")


def _iban_end(candidate: str) -> int:
    """How much of the candidate is an IBAN: words may follow it and look like more of it. 0 for none."""
    from stdnum import iban  # when there is something to check, for cold start

    for end in range(len(candidate), 14, -1):
        whole_word = end == len(candidate) or not candidate[end].isalnum()
        if whole_word and candidate[end - 1].isalnum() and iban.is_valid(candidate[:end]):
            return end
    return 0


def cn_ids(text: str) -> Iterator[Found]:
    """Chinese resident ids: province, date of birth and check digit are right. Districts come and go: not checked."""
    for match in _CN_ID.finditer(text):
        from stdnum.cn import ric  # when there is something to check, for cold start
        from stdnum.exceptions import ValidationError  # as above

        number = match[0].upper()
        try:
            ric.get_birth_date(number)
            right = "11" <= number[:2] <= "83" and ric.calc_check_digit(number) == number[-1]
        except ValidationError:
            continue
        if right:
            yield Found(match.start(), match.end(), "cn_id")


def cards(text: str) -> Iterator[Found]:
    """Payment cards: Luhn's check digit, and the range and length of a network or a word that speaks of cards."""
    for match in _DIGITS.finditer(text):
        if len(match[0]) < 12:
            continue
        # The digits of a card may stand in groups, and other groups of digits before and after them.
        groups = [(group.start(), group[0]) for group in re.finditer(r"\d+", match[0])]
        spoken_of = bool(_CARD_WORDS.search(_around(text, match)))
        first = 0
        while first < len(groups):
            count = _card(groups[first:], spoken_of)
            if count:
                start, (last, digits) = groups[first][0], groups[first + count - 1]
                yield Found(match.start() + start, match.start() + last + len(digits), "card")
            first += count or 1


def _card(groups: Sequence[tuple[int, str]], spoken_of: bool) -> int:
    """How many of the first groups together are a card number, as many as can be; 0 for none."""
    from stdnum import luhn  # when there is something to check, for cold start

    digits, found = "", 0
    for count, (_, group) in enumerate(groups, start=1):
        digits += group
        if len(digits) > 19 or len(group) < 3:
            break
        if len(digits) < 12 or len(set(digits)) == 1 or not luhn.is_valid(digits):
            continue
        in_range = any(start.match(digits) and len(digits) in lengths for start, lengths in _NETWORKS)
        # 12 digits are too often something else.
        if spoken_of or (in_range and len(digits) > 12):
            found = count
    return found


def phones(text: str, regions: Sequence[str] = REGIONS) -> Iterator[Found]:
    """Phone numbers: with a country code, or in the form of a region, or where words around speak of a phone."""
    for match in _PHONE.finditer(text):
        start, end = _unwrapped(match)
        before = text[max(0, start - _BEFORE) : start]
        if _is_phone(text[start:end], before, _around(text, match), regions):
            yield Found(start, end, "phone")


def _is_phone(number: str, before: str, around: str, regions: Sequence[str]) -> bool:
    spoken_of = bool(_PHONE_WORDS.search(around))
    if number.startswith("+"):
        return spoken_of or _valid(number, "ZZ")
    if _OTHER_WORDS.search(before) or _NO_PHONE.fullmatch(number):
        return False
    groups = re.findall(r"\d+", number)
    digits = sum(map(len, groups))
    if spoken_of and 7 <= digits <= 15:
        return True
    if number.startswith("00") and _valid("+" + number[2:].lstrip(), "ZZ"):
        return True
    if len(groups) == 1 and "(" not in number:
        # Digits alone are an order number as well as a phone number, but for the mobile numbers of China.
        return "CN" in regions and bool(re.fullmatch(r"1[3-9]\d{9}", number)) and _valid(number, "CN")
    # Two numbers that stand side by side are no phone number; three groups, a leading 0 or brackets look like one.
    looks_like = len(groups) > 2 or number[0] in "0("
    if not looks_like or digits < 9 or _THOUSANDS.fullmatch(number):
        return False
    return any(_valid(number, region) for region in regions)


def _around(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - _BEFORE) : match.end() + _AFTER]


def _unwrapped(match: re.Match[str]) -> tuple[int, int]:
    """Start and end of the number without brackets that belong to the sentence around it."""
    start, end = match.span()
    number = match[0]
    if number.endswith(")") and number.count(")") > number.count("("):
        return start, end - 1
    if number.startswith("(") and number.count("(") > number.count(")"):
        return start + 1, end
    if number.startswith("(") and number.find(")") == len(number) - 1:
        return start + 1, end - 1
    return start, end


@lru_cache(maxsize=1024)
def _valid(number: str, region: str) -> bool:
    """Whether the number plan of the region (ZZ: of the number's own country code) has such a number."""
    import phonenumbers  # when there is something to check, for cold start: its tables are large

    try:
        parsed: Any = phonenumbers.parse(number, None if region == "ZZ" else region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(parsed))
