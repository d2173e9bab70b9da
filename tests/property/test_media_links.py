"""What holds for every link, address, name and data: URL."""

import base64
import ipaddress
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backfill.media import MediaRefused, find_format
from backfill.media.cached_name import CachedName, make_key, read_name
from backfill.media.data_urls import decode_data_url
from backfill.media.formats import FORMATS
from backfill.media.links import check_link, parse_link
from backfill.media_file import MediaKind
from backfill.network import AddressRules, is_public, parse_address
from backfill.network.links import describe_link

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
PRIVATE_V4 = st.sampled_from(
    ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "224.0.0.0/4"]
).flatmap(lambda network: st.ip_addresses(network=network))
FORMS = {
    "mapped": lambda inner: ipaddress.IPv6Address(0xFFFF << 32 | inner),
    "NAT64": lambda inner: ipaddress.IPv6Address(0x64_FF9B << 96 | inner),
    "6to4": lambda inner: ipaddress.IPv6Address(0x2002 << 112 | inner << 80 | 1),
    "ISATAP": lambda inner: ipaddress.IPv6Address(0x2001_4860 << 96 | 0x5EFE << 32 | inner),
}
SECRET = "secret0f1e2d"


@pytest.mark.parametrize("form", FORMS)
@given(PRIVATE_V4)
def test_a_private_address_is_private_in_every_form(form: str, inner: ipaddress.IPv4Address) -> None:
    assert not is_public(inner)
    wrapped = FORMS[form](int(inner))
    assert not is_public(wrapped)
    assert not AddressRules().allows(str(wrapped))
    # What is allowed as it is, is allowed in the other form, for it leads there.
    assert AddressRules([f"{inner}/32"]).allows(str(wrapped))


@given(V4 | V6)
def test_nothing_is_public_that_the_standard_library_knows_to_be_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    known = mapped or address
    if not known.is_global or known.is_multicast or known.is_link_local:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_most_of_the_internet_is_public(address: ipaddress.IPv4Address) -> None:
    first = int(address) >> 24
    assume(first not in {0, 10, 100, 127, 168, 169, 172, 192, 198, 203} and first < 224)
    assert is_public(address)
    assert parse_address(str(address)) == address


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=60), st.booleans())
@example("http://a\\@b/", True)
@example("//host/", True)
@example("http://a:0x1/", False)
@example("http://[v1.x]/", False)
@example("http://\ud800/", True)
def test_any_text_is_a_link_or_is_refused(rest: str, begins_well: bool) -> None:
    text = f"https://{rest}" if begins_well else rest
    try:
        link = parse_link(text)
        check_link(link, AddressRules(), allow_http=True)
    except MediaRefused:
        return
    assert link.scheme in ("http", "https")
    assert link.host
    assert link.user is None
    assert link.port
    address = parse_address(link.host)
    assert address is None or is_public(address)
    # What is asked for is in one line, and nothing else can be said in it.
    assert str(link).isascii()
    assert not set(str(link)) & set(string.whitespace)


WORDS = st.text(string.ascii_letters + string.digits + "-._~", min_size=1, max_size=12)


@given(WORDS.filter(lambda word: "~" not in word), st.lists(WORDS, max_size=4), st.integers(1, 65535))
def test_what_is_said_of_a_link_has_no_secret(host: str, path: list[str], port: int) -> None:
    text = f"https://user:{SECRET}@{host}.example:{port}/{'/'.join(path)}?token={SECRET}&x=%2F#{SECRET}"
    described = describe_link(parse_link(text))
    assert described.startswith(f"https://{host}.example:{port}/")
    assert SECRET not in described
    assert "?" not in described
    assert "#" not in described


QUERY_PIECES = [*"abc/?-._~!$&'()*+,;=:@", "%2F", "%2f", "%7E", "%2B", "%00", "%61"]


@given(st.text("abc/-._~!$&'()*+,;=:@", max_size=20), st.lists(st.sampled_from(QUERY_PIECES), max_size=40))
def test_a_signed_link_is_asked_for_as_it_was_written(path: str, pieces: list[str]) -> None:
    query = "".join(pieces)
    text = f"https://host.example/{path}?{query}"
    link = parse_link(text)
    assert link.raw_path_qs == (f"/{path}?{query}" if query else f"/{path}")


@given(st.binary(min_size=1, max_size=300))
def test_a_data_url_gives_back_what_was_put_in(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    assert decode_data_url(f"data:image/png;base64,{encoded}", len(data), "limit") == data
    for cut in range(1, 4):
        with pytest.raises(MediaRefused, match="is cut off: base64 comes in groups of four"):
            decode_data_url(f"data:;base64,{encoded[:-cut]}", len(data), "limit")
    with pytest.raises(MediaRefused, match=r"at most .* are taken \(limit\)"):
        decode_data_url(f"data:;base64,{encoded}", len(data) - 1, "limit")


@given(st.binary(min_size=1, max_size=60), st.integers(0, 90), st.characters())
def test_no_other_character_is_base64(data: bytes, at: int, character: str) -> None:
    assume(character not in string.ascii_letters + string.digits + "+/=")
    encoded = base64.b64encode(data).decode()
    broken = encoded[: at % (len(encoded) + 1)] + character + encoded[at % (len(encoded) + 1) :]
    for text in (broken, broken + "A" * (-len(broken) % 4)):
        with pytest.raises(MediaRefused):
            decode_data_url(f"data:image/png;base64,{text}", 10_000, "limit")


@given(st.text(max_size=100))
def test_any_data_url_is_decoded_or_refused(text: str) -> None:
    try:
        assert decode_data_url(f"data:{text}", 100, "limit")
    except MediaRefused:
        return
    assert ";base64," in text.lower()


@given(st.binary(max_size=200))
def test_any_bytes_have_one_form_or_none(head: bytes) -> None:
    found = find_format(head)
    assert found is None or found in [known for known, _ in FORMATS]


@given(
    st.sampled_from(MediaKind),
    st.text(max_size=100),
    st.none() | st.integers(0, 10**8),
    st.none() | st.integers(0, 10**11),
    st.sampled_from([known.extension for known, _ in FORMATS]),
)
def test_a_name_says_what_it_was_given(
    kind: MediaKind, source: str, side: int | None, duration_ms: int | None, extension: str
) -> None:
    name = CachedName(make_key(kind, source), "0" * 64, side, side, duration_ms, extension)
    written = name.render("0123abcd")
    assert read_name(written) == name
    assert len(written) < 250
    assert read_name(written[1:]) is None
    assert read_name(written + ".partial") is None
