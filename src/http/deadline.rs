//! How long a request's caller waits, as it says in a header.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// What gRPC clients and Envoy send.
const WELL_KNOWN: [&str; 2] = ["grpc-timeout", "x-envoy-expected-rq-timeout-ms"];

/// The least of what the well-known headers and those of one's own say. What cannot
/// be read says nothing.
pub(crate) fn of_caller(headers: &HeaderMap, own: &[HeaderName]) -> Option<Duration> {
    let well_known = WELL_KNOWN.iter().filter_map(|name| headers.get(*name));
    let own = own.iter().filter_map(|name| headers.get(name));
    let values = well_known.chain(own);
    values
        .filter_map(|value| parse(value.to_str().ok()?.trim()))
        .min()
}

/// A whole number of milliseconds; or gRPC's form, up to eight digits and a unit (see
/// "Requests" in its "gRPC over HTTP2").
fn parse(value: &str) -> Option<Duration> {
    let digits_end = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (digits, unit) = value.split_at(digits_end);
    let number: u64 = digits.parse().ok()?;
    match unit {
        "" | "m" => Some(Duration::from_millis(number)),
        "H" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_grpc_and_milliseconds_without() {
        for (value, millis) in [
            ("250", Some(250)),
            ("250m", Some(250)),
            ("2S", Some(2_000)),
            ("3M", Some(180_000)),
            ("1H", Some(3_600_000)),
            ("5000u", Some(5)),
            ("7000000n", Some(7)),
            ("", None),
            ("S", None),
            ("1d", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("18446744073709551615H", None),
        ] {
            assert_eq!(parse(value), millis.map(Duration::from_millis), "{value}");
        }
    }

    #[test]
    fn the_least_counts_and_nonsense_does_not() {
        let mut headers = HeaderMap::new();
        let own = [HeaderName::from_static("x-timeout")];
        assert_eq!(of_caller(&headers, &own), None);
        headers.insert("grpc-timeout", "5S".parse().unwrap());
        headers.insert("x-envoy-expected-rq-timeout-ms", "soon".parse().unwrap());
        assert_eq!(of_caller(&headers, &own), Some(Duration::from_secs(5)));
        headers.insert("x-timeout", "90".parse().unwrap());
        assert_eq!(of_caller(&headers, &own), Some(Duration::from_millis(90)));
    }
}
