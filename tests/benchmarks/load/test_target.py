import pytest

from benchmarks.errors import UsageError
from benchmarks.load.target import parse_target


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "prefix", "authority"),
    [
        ("http://localhost:8080", "localhost", 8080, False, "", "localhost:8080"),
        ("localhost:8080", "localhost", 8080, False, "", "localhost:8080"),
        ("http://gateway/seldon/prod/churn/", "gateway", 80, False, "/seldon/prod/churn", "gateway"),
        ("https://gateway/seldon/prod/churn", "gateway", 443, True, "/seldon/prod/churn", "gateway"),
        ("grpc://localhost:8081", "localhost", 8081, False, "", "localhost:8081"),
        ("grpcs://gateway", "gateway", 443, True, "", "gateway"),
        ("http://[::1]:8080", "::1", 8080, False, "", "[::1]:8080"),
    ],
)
def test_a_url_names_host_port_tls_and_prefix(
    url: str, host: str, port: int, tls: bool, prefix: str, authority: str
) -> None:
    target = parse_target(url)
    assert (target.host, target.port, target.tls, target.prefix, target.authority) == (
        host,
        port,
        tls,
        prefix,
        authority,
    )


def test_a_host_header_wins_over_the_url() -> None:
    assert parse_target("http://10.0.0.1:31380", ["Host: churn.example"]).authority == "churn.example"


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "http://host/p?q=1"])
def test_a_url_that_cannot_be_meant_is_refused_by_name(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        parse_target(url)


@pytest.mark.parametrize("header", ["no-colon", ": value", "a: b\r\nc: d"])
def test_a_header_that_would_break_the_request_is_refused(header: str) -> None:
    with pytest.raises(UsageError, match="Name: value"):
        parse_target("http://host", [header])
