"""Which addresses may be gone to on somebody's word: all known tricks of writing one that is private."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.errors import ConfigError, ForbiddenAddressError
from agent_core.wire.reach import Reach, is_public, matches, read_url

CASES = json.loads((Path(__file__).parents[4] / "shared/data/ssrf_cases.json").read_text())
ANY = Reach(ports=None)


def refused(url: str, reach: Reach = ANY) -> str:
    with pytest.raises(ForbiddenAddressError) as caught:
        reach.place(url)
    return caught.value.detail


@pytest.mark.parametrize("case", CASES["ips"], ids=lambda case: case["ip"])
def test_every_address_of_the_public_list(case: dict[str, str]) -> None:
    assert is_public(case["ip"]) is (case["expect"] == "allow")
    host = f"[{case['ip']}]" if ":" in case["ip"] else case["ip"]
    if case["expect"] == "allow":
        assert ANY.place(f"https://{host}/").host == case["ip"]
    else:
        refused(f"https://{host}/")


@pytest.mark.parametrize("case", CASES["urls"], ids=lambda case: case["url"])
def test_every_url_of_the_public_list(case: dict[str, str]) -> None:
    if case["expect"] in ("deny", "deny-port"):
        reason = refused(case["url"], Reach())
        assert ("port" in reason) == (case["expect"] == "deny-port" or ":9001" in case["url"])
    else:
        place = Reach().place(case["url"])
        with pytest.raises(ForbiddenAddressError):
            Reach().check_answer(place, ["127.0.0.1"])
        assert Reach().check_answer(place, ["93.184.216.34"]) == "93.184.216.34"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://printer.local/", "http://redis/",
        "http://metadata.google.internal./", "http://instance-data/", "http://kubernetes.default.svc.cluster.local/",
        "http://127.0.0.1./", "http://127.0.0.1../", "http://0x7f.0.0.1/", "http://0177.0x0.0.1/", "http://0/",
        "http://127.0.1/", "http://017700000001/", "http://127.00.0.1/", "http://1.2.3.4.5/", "http://4294967297/",
        "http://8.8.8.010/", "http://0x8.8.8.8/", "http://８.８.８.８/", "http://1２7.0.0.1/", "http://127.0.0.1\u3002/",
        "http://[::]/", "http://[::1]/", "http://[0:0:0:0:0:ffff:7f00:1]/", "http://[::ffff:0:127.0.0.1]/",
        "http://[fe80::1%eth0]/", "http://[fe80::1%25eth0]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::]/", "http://[v1.fe80]/", "http://[127.0.0.1]/", "http://[::1", "http://::1/",
        "http://example.com\\@127.0.0.1/", "http:\\\\127.0.0.1/", "http://127.0.0.1\\.example.com/",
        "http://a@b@127.0.0.1/", "http://example.com@127.0.0.1/", "http://@example.com/", "http://:@example.com/",
        "http://exa mple.com/", "http://example.com/\r\nHost: x", " http://example.com/", "http://example.com/\t",
        "http://\x00example.com/", "http://example.com:0/", "http://example.com:65536/", "http://example.com:８０/",
        "http://example.com:-1/", "http://example.com:8x/", "//example.com/", "example.com", "", "http:", "https:///x",
        "http:example.com", "http://%31%32%37.0.0.1/", "http://127%2e0.0.1/", "http://.example.com/", "http://a..b.com/",
        "gopher://example.com/", "ftp://example.com/", "javascript:alert(1)", "data:text/html,x", "http+unix://a.b/",
        "http://-a.example.com/", "http://a-.example.com/", "http://xn--a.com\u200d/", "http://xn--0.com/",
        "http://" + "a" * 64 + ".com/", "http://" + "a." * 130 + "com/", "http://example.com/" + "a" * 9000,
        "http://168.63.129.16/", "http://\ud800.com/", "http://example.com/\ud800", "http://exam℀ple.com/",
        "http://127。0。0。1。/", "http://⑯⑨.②⑤④.①⑥⑨.②⑤④/", "http://169.254.169.254\u00ad/", "http://①/",
    ],
)  # fmt: skip
def test_spellings_that_are_refused(url: str) -> None:
    refused(url)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://Example.COM", "https://example.com/"),
        ("https://example.com.:443/a/../b?c=ü#d", "https://example.com/a/../b?c=%C3%BC"),
        ("https://bücher.example.com/straße", "https://xn--bcher-kva.example.com/stra%C3%9Fe"),
        ("http://xn--bcher-kva.example.com:80/", "http://xn--bcher-kva.example.com/"),
        ("https://example.com:8443?x", "https://example.com:8443/?x"),
        ("https://[2606:4700:0:0::1111]/%2F", "https://[2606:4700::1111]/%2F"),
        ("https://a_b.example.com/", "https://a_b.example.com/"),
    ],
)
def test_urls_have_one_normal_form(url: str, normal: str) -> None:
    assert ANY.place(url).url == normal
    assert read_url(normal).url == normal


def spellings(number: int) -> list[str]:
    """The ways in which resolvers and browsers read one IPv4 address."""
    a, b, c, d = number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255
    plain = f"{a}.{b}.{c}.{d}"
    return [
        str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"{a:#X}.{b}.0{c:o}.{d}", f"{plain}.",
        f"{a:04}.{b}.{c}.{d}", plain.replace(".", "。"), plain.replace(".", "．"), plain.replace(".", "｡"),
        plain.translate({48 + digit: 0xFF10 + digit for digit in range(10)}), plain.replace("1", "¹"),
        plain.replace("1", "①"), plain.replace("2", "𝟐"), plain.replace("0", "%30"), plain.replace(".", "%2e"),
    ]  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.data())
def test_no_odd_spelling_of_any_address_passes(number: int, data: st.DataObject) -> None:
    plain = str(IPv4Address(number))
    spelled = data.draw(st.sampled_from(spellings(number)))
    if spelled != plain:
        refused(f"http://{spelled}/")


@given(st.integers(0, 2**32 - 1))
def test_what_wraps_an_ipv4_address_is_no_better_than_it(number: int) -> None:
    plain = IPv4Address(number)
    public = is_public(str(plain))
    assert is_public(str(IPv6Address(f"::ffff:{plain}"))) is public
    for prefix in ("::", "64:ff9b::", "64:ff9b:1::", "::ffff:0:"):
        assert not is_public(str(IPv6Address(f"{prefix}{plain}")))
    assert not is_public(str(IPv6Address((0x2002 << 112) | (number << 80) | 1)))
    assert not is_public(str(IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF))))


PRIVATE = [
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "192.0.0.0/24", "192.0.2.0/24"),
        *("::/8", "64:ff9b::/96", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10"),
        *("fec0::/10", "ff00::/8", "3fff::/20", "5f00::/16"),
    )
]  # fmt: skip


@given(st.sampled_from(PRIVATE), st.data())
def test_no_address_of_a_network_that_is_not_public_passes(network: object, data: st.DataObject) -> None:
    inside = data.draw(st.ip_addresses(network=network))
    assert is_public(str(inside)) is (
        inside.version == 6 and bool(inside.ipv4_mapped) and is_public(str(inside.ipv4_mapped))
    )


@given(st.text(max_size=40))
def test_whatever_the_text_there_is_a_place_or_the_one_error(text: str) -> None:
    for url in (text, f"http://{text}/", f"https://{text}.example.com/{text}"):
        try:
            place = ANY.place(url)
        except ForbiddenAddressError:
            continue
        assert place.url.isascii()
        assert place.host.isascii()
        assert read_url(place.url) == place


def test_one_bad_address_among_good_ones_refuses_the_whole_answer() -> None:
    place = ANY.place("https://example.com/")
    assert ANY.check_answer(place, ["93.184.216.34", "2606:4700::1111"]) == "93.184.216.34"
    for answer in (["93.184.216.34", "10.0.0.1"], ["::1"], ["fe80::1%2"], [], ["nonsense"]):
        with pytest.raises(ForbiddenAddressError):
            ANY.check_answer(place, answer)


def test_lists_of_hosts() -> None:
    reach = Reach(hosts=("example.com", "*.python.org", "bücher.de"), denied=("evil.python.org",))
    for url in ("https://example.com/", "https://docs.python.org/3/", "https://xn--bcher-kva.de/"):
        reach.place(url)
    for url in (
        "https://python.org/",
        "https://evil.python.org/",
        "https://a.example.com/",
        "https://xpython.org/",
    ):
        assert "list" in refused(url, reach)
    assert matches("a.b", ["*"])
    refused("http://10.0.0.1/", Reach(hosts=("10.0.0.1",)))  # an allow list opens no private network
    for wrong in ("https://example.com", "example.com/x", "a@b", "", "*.*.com"):
        with pytest.raises(ConfigError):
            Reach(hosts=(wrong,))
    with pytest.raises(ConfigError, match="list"):
        Reach(hosts="example.com")  # type: ignore[arg-type]


def test_this_machine_can_be_let_through_but_for_the_runtime_of_lambda() -> None:
    local = Reach(ports=None, schemes=("https",), loopback=True)
    for url in ("http://localhost:8080/x", "http://127.0.0.1:1/", "http://[::1]:80/"):
        place = local.place(url)
        assert local.check_answer(place, ["127.0.0.1"]) == "127.0.0.1"
    for url in (
        "http://127.0.0.1:9001/",
        "http://localhost:2773/",
        "http://example.com/",
        "http://10.0.0.1/",
    ):
        refused(url, local)
    with pytest.raises(ForbiddenAddressError):
        local.check_answer(local.place("https://example.com/"), ["127.0.0.1"])
    with pytest.raises(ForbiddenAddressError):
        local.check_answer(local.place("http://localhost:80/"), ["169.254.169.254"])
