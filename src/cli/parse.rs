//! Values as people type them: durations, `name.namespace`, `KEY=VALUE`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::mesh::route::Share;
use crate::mesh::{Hostname, Locality};

/// Go's durations: `300ms`, `30s`, `5m`, `1h30m`, `7d`; `0` alone needs no unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("{text:?} is not a duration such as 300ms, 30s, 5m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters).ok_or_else(wrong)?;
        let seconds: f64 = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(total)
    }
}

/// `KEY=VALUE`; the value may be empty.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// A share of requests, in percent, in steps of a ten-thousandth.
pub(crate) fn percent(text: &str) -> Result<Share, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let parts = number
        .filter(|number| (0.0..=100.0).contains(number))
        .and_then(|number| format!("{:.0}", number * 10_000.0).parse().ok());
    let parts = parts.ok_or_else(|| format!("{text:?} is not a percentage from 0 to 100"))?;
    Ok(Share {
        of: 1_000_000,
        parts,
    })
}

/// `header:NAME=VALUE`.
pub(crate) fn condition(text: &str) -> Result<String, String> {
    let header = text.strip_prefix("header:").map(key_value);
    match header {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not header:NAME=VALUE")),
    }
}

/// `REGION`, `REGION/ZONE` or `REGION/ZONE/SUBZONE`.
pub(crate) fn locality(text: &str) -> Result<Locality, String> {
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 3 || parts.contains(&"") {
        return Err(format!("{text:?} is not REGION/ZONE/SUBZONE"));
    }
    let part = |at: usize| parts.get(at).map(|part| (*part).to_owned());
    Ok(Locality {
        region: part(0).unwrap_or_default(),
        zone: part(1).unwrap_or_default(),
        subzone: part(2).unwrap_or_default(),
    })
}

/// `VERSION=WEIGHT`; a percent sign after the weight is allowed.
pub(crate) fn weight(text: &str) -> Result<(String, u32), String> {
    let (version, weight) =
        key_value(text).map_err(|_| format!("{text:?} is not VERSION=WEIGHT, such as v2=10"))?;
    let weight = weight
        .strip_suffix('%')
        .unwrap_or(&weight)
        .parse()
        .map_err(|_| format!("the weight {weight:?} is not a whole number"))?;
    Ok((version, weight))
}

/// A header as curl takes it: `Name: value`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err(format!(
            "{text:?} is not a header such as 'end-user: jason'"
        )),
    }
}

/// `HOST:PORT` of something to connect to.
pub(crate) fn host_port(text: &str) -> Result<String, String> {
    let good = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not HOST:PORT"))
    }
}

/// `PORT` or `PORT=HOST:PORT`.
pub(crate) fn port_map(text: &str) -> Result<(u16, Option<SocketAddr>), String> {
    let wrong = || format!("{text:?} is not PORT or PORT=ADDRESS:PORT");
    let (port, address) = match text.split_once('=') {
        Some((port, address)) => (port, Some(address.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    match port.parse() {
        Ok(0) | Err(_) => Err(wrong()),
        Ok(port) => Ok((port, address)),
    }
}

/// Where an application listens: `HOST:PORT`, or `PORT=HOST:PORT` when services target another
/// port than the one it listens on.
pub(crate) fn app(text: &str) -> Result<(u16, SocketAddr), String> {
    let wrong = || format!("{text:?} is not PORT, ADDRESS:PORT or PORT=ADDRESS:PORT");
    if let Ok(port) = text.parse::<u16>() {
        let meant = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        return if port == 0 {
            Err(wrong())
        } else {
            Ok((port, meant))
        };
    }
    let (port, address) = match text.split_once('=') {
        Some((port, address)) => (Some(port.parse().map_err(|_| wrong())?), address),
        None => (None, text),
    };
    let address = address
        .replace("localhost:", "127.0.0.1:")
        .parse::<SocketAddr>()
        .map_err(|_| wrong())?;
    match port.unwrap_or(address.port()) {
        0 => Err(wrong()),
        port => Ok((port, address)),
    }
}

/// A port of Gateways, and where it is listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    /// As Gateways name it.
    pub(crate) port: u16,
    /// That of the proxy when absent.
    pub(crate) ip: Option<IpAddr>,
    /// As it is bound.
    pub(crate) own: u16,
}

/// `PORT`, `IP:PORT`, and `PORT=` before either.
pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    let wrong =
        || format!("{text:?} is not PORT, IP:PORT, or PORT= before either, such as 80=8080");
    let (port, place) = match text.split_once('=') {
        Some((port, place)) => (Some(port.parse().map_err(|_| wrong())?), place),
        None => (None, text),
    };
    let (ip, own) = match (place.parse::<u16>(), place.parse::<SocketAddr>()) {
        (Ok(own), _) => (None, own),
        (_, Ok(address)) => (Some(address.ip()), address.port()),
        _ => return Err(wrong()),
    };
    match (port.unwrap_or(own), own) {
        (0, _) | (_, 0) => Err(wrong()),
        (port, own) => Ok(Listen { port, ip, own }),
    }
}

/// Where an application gives its metrics: `PORT` or `PORT/PATH`.
pub(crate) fn app_metrics(text: &str) -> Result<crate::proxy::Metrics, String> {
    let (port, path) = match text.find('/') {
        Some(at) => text.split_at(at),
        None => (text, "/metrics"),
    };
    let port = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or("expected PORT or PORT/PATH, as 9090/metrics")?;
    let path = path.to_owned();
    Ok(crate::proxy::Metrics { port, path })
}

/// `NAME=PORT`.
pub(crate) fn named_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{text:?} is not NAME=PORT, such as http=8080");
    let (name, port) = key_value(text).map_err(|_| wrong())?;
    match port.parse() {
        Ok(0) | Err(_) => Err(wrong()),
        Ok(port) => Ok((name, port)),
    }
}

/// A name with its namespace: `reviews`, `reviews.shop`, `reviews.shop.svc.cluster.local`.
pub(crate) fn qualified(text: &str, namespace: &str) -> (String, String) {
    if let Ok(host) = text.parse::<Hostname>()
        && let Some((name, namespace)) = host.kubernetes()
    {
        return (name.to_owned(), namespace.to_owned());
    }
    let short = text
        .strip_suffix(".svc")
        .filter(|short| short.contains('.'))
        .unwrap_or(text);
    match short.rsplit_once('.') {
        Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => {
            (name.to_owned(), namespace.to_owned())
        }
        _ => (text.to_owned(), namespace.to_owned()),
    }
}

/// A Kubernetes name: what an object, a service or a namespace may be called.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() <= 253
        && bytes.iter().all(|b| plain(*b))
        && edge(bytes.first())
        && edge(bytes.last())
    {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a name: lower-case letters, digits, dashes and dots, at most 253"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("300ms").unwrap(), Duration::from_millis(300));
        assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1_500));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        for wrong in [
            "",
            "10",
            "s",
            "1x",
            "-1s",
            "1h30",
            "1e400s",
            "..s",
            "99999999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn services_are_named_as_istio_does() {
        let is = |text, name: &str, namespace: &str| {
            assert_eq!(
                qualified(text, "here"),
                (name.to_owned(), namespace.to_owned())
            );
        };
        is("reviews", "reviews", "here");
        is("reviews.shop", "reviews", "shop");
        is("reviews.shop.svc", "reviews", "shop");
        is("reviews.shop.svc.cluster.local", "reviews", "shop");
    }

    #[test]
    fn weights_and_ports_are_checked() {
        assert_eq!(weight("v1=90").unwrap(), ("v1".to_owned(), 90));
        assert_eq!(weight("v1=90%").unwrap(), ("v1".to_owned(), 90));
        assert!(weight("v1").is_err());
        assert!(weight("v1=-1").is_err());
        assert_eq!(port_map("9080").unwrap(), (9080, None));
        assert!(port_map("0").is_err());
        assert!(port_map("70000").is_err());
        assert_eq!(
            app("9080=127.0.0.1:19080").unwrap(),
            (9080, "127.0.0.1:19080".parse().unwrap())
        );
        assert_eq!(app("localhost:80").unwrap().0, 80);
        assert!(app("localhost").is_err());
    }
}
