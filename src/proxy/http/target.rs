//! The host and target that a request means, from the forms that it may have.

use super::super::context::Conn;
use super::super::tables::http::HttpTable;
use super::plan::Ask;
use super::respond::Failure;
use super::{Version, authority};

/// The host and target that count: an absolute URI's own win over the `host` field.
pub(crate) fn effective<'m>(
    ask: &Ask<'m>,
    connect: bool,
    conn: &Conn,
    http: &'m HttpTable,
) -> Result<(&'m [u8], &'m [u8]), Failure> {
    const BAD_URL: Failure = Failure::Malformed("http1.invalid_url");
    if ask.version == Version::Http11 && ask.scan.host.is_none() {
        return Err(Failure::NoHost);
    }
    let options = &http.options;
    let (authority, target) = match ask.target {
        target if connect && ask.version != Version::Http2 => (Some(target), &b"/"[..]),
        b"*" if ask.method == b"OPTIONS" => (ask.authority, ask.target),
        [b'/', ..] => (ask.authority, ask.target),
        target => {
            let rest = strip_scheme(target)
                .filter(|_| options.http1.allow_absolute_url)
                .ok_or(BAD_URL)?;
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
                .unwrap_or(rest.len());
            let (authority, path) = rest.split_at_checked(end).ok_or(BAD_URL)?;
            match path {
                // RFC 9112, 3.2.4: the last proxy sends it on as what it stands for.
                [] if ask.method == b"OPTIONS" => (Some(authority), &b"*"[..]),
                [] => (Some(authority), &b"/"[..]),
                [b'/', ..] => (Some(authority), path),
                _ => return Err(BAD_URL),
            }
        }
    };
    // What stands beside an absolute URI is not looked at, but not anything either.
    if let Some(host) = ask.scan.host
        && authority != Some(host)
        && !authority::is_valid(host)
    {
        return Err(Failure::Malformed("http1.invalid_host"));
    }
    let authority = match authority {
        None | Some([]) if ask.version == Version::Http10 => {
            options.http1.default_host_for_http_10.as_bytes()
        }
        authority => authority.unwrap_or_default(),
    };
    if !authority::is_valid(authority) || (authority.is_empty() && ask.version == Version::Http11) {
        return Err(Failure::Malformed("http1.invalid_host"));
    }
    if connect {
        return match authority::port(authority) {
            Some(_) => Ok((authority, target)),
            None => Err(Failure::Malformed("http1.invalid_connect_target")),
        };
    }
    let own = conn.meant.unwrap_or(conn.local).port();
    Ok((authority::stripped(authority, options.host, own), target))
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (head, rest) = target.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Framing;
    use super::super::fields::{self, Fields, Scan};
    use super::*;

    fn of<'m>(method: &'m [u8], target: &'m [u8], scan: &'m Scan<'m>) -> Ask<'m> {
        Ask {
            method,
            target,
            authority: scan.host,
            version: Version::Http11,
            fields: Fields::Text(&[]),
            scan,
            framing: Framing::None,
            upgrade: None,
            leave: None,
        }
    }

    #[test]
    fn the_absolute_form_names_the_host() {
        let headers = [httparse::Header {
            name: "host",
            value: b"other",
        }];
        let scan = fields::scan(Fields::Text(&headers)).unwrap();
        let conn = Conn::testing();
        for (method, target, host, path) in [
            ("OPTIONS", "http://details", "details", "*"),
            ("GET", "/x", "other", "/x"),
            ("GET", "http://details:9080/x?y", "details:9080", "/x?y"),
            ("GET", "HTTP://details", "details", "/"),
            ("OPTIONS", "*", "other", "*"),
            ("CONNECT", "details:9080", "details:9080", "/"),
        ] {
            let ask = of(method.as_bytes(), target.as_bytes(), &scan);
            assert_eq!(
                effective(&ask, method == "CONNECT", &conn, HttpTable::usual()),
                Ok((host.as_bytes(), path.as_bytes())),
                "{target}"
            );
        }
        for target in [
            "x",
            "ftp://a/",
            "http://a@b/",
            "http://a b/",
            "http:///",
            "http://a#x",
        ] {
            assert!(
                effective(
                    &of(b"GET", target.as_bytes(), &scan),
                    false,
                    &conn,
                    HttpTable::usual()
                )
                .is_err(),
                "{target}"
            );
        }
    }
}
