//! The logs of a listener, ready for its calls.

use std::sync::{Arc, OnceLock};

use crate::mesh::access_log::format::Compiled;
use crate::mesh::access_log::operators::Operator;
use crate::mesh::access_log::service::{LogService, Says};
use crate::mesh::access_log::{Filter, Logger, Sink};
use crate::mesh::route::TextMatch;
use crate::mesh::tracing::TagFrom;
use crate::telemetry::AccessRecord;

use super::super::http::respond::grpc_status;
use super::super::tap::Seen;
use super::services::Lane;
use super::writers::{Writer, Writers};

/// The logs of a listener.
#[derive(Debug, Default)]
pub(crate) struct LogTable {
    logs: Vec<Log>,
    /// Names of the fields that they tell of or ask about.
    pub(crate) request: Vec<String>,
    pub(crate) response: Vec<String>,
    pub(crate) trailers: Vec<String>,
    /// They tell how a call went on its way to the endpoint.
    pub(crate) way: bool,
    /// They tell of certificates.
    pub(crate) certificates: bool,
}

#[derive(Debug)]
struct Log {
    to: Goes,
    filter: Option<Filter>,
}

/// Where a log goes. Opened with the first record, and kept for as long as these tables are.
#[derive(Debug)]
enum Goes {
    File {
        path: String,
        format: Arc<Compiled>,
        writer: OnceLock<Option<Writer>>,
    },
    Service {
        service: Arc<LogService>,
        lane: OnceLock<Option<Lane>>,
    },
}

impl LogTable {
    /// One that cannot be read is left out: whoever sent it was told.
    pub(crate) fn new(loggers: &[Logger]) -> Self {
        let mut table = Self::default();
        for logger in loggers.iter().filter(|logger| !logger.is_off()) {
            let to = match &logger.to {
                Sink::File { path, format } => {
                    let Ok(format) = format.compile() else {
                        continue;
                    };
                    format.each(&mut |operator| table.needs(operator));
                    Goes::File {
                        path: path.clone(),
                        format: Arc::new(format),
                        writer: OnceLock::new(),
                    }
                }
                Sink::Service(service) => {
                    table.told(service);
                    Goes::Service {
                        service: Arc::clone(service),
                        lane: OnceLock::new(),
                    }
                }
            };
            if let Some(filter) = &logger.filter {
                filter.request_fields(&mut table.request);
                filter.response_fields(&mut table.response);
            }
            table.logs.push(Log {
                to,
                filter: logger.filter.clone(),
            });
        }
        for names in [&mut table.request, &mut table.response, &mut table.trailers] {
            names.sort();
            names.dedup();
        }
        table
    }

    /// Takes note of the fields that `operator` tells of.
    fn needs(&mut self, operator: &Operator) {
        self.way |= operator.of_the_way();
        self.certificates |= operator.of_certificates();
        match operator {
            Operator::Request(name, other) => {
                self.request
                    .extend([name].into_iter().chain(other).cloned());
            }
            Operator::Response(name, other) => {
                self.response
                    .extend([name].into_iter().chain(other).cloned());
            }
            Operator::Trailer(name, other) => {
                self.trailers
                    .extend([name].into_iter().chain(other).cloned());
            }
            Operator::TraceId => {
                let names = ["traceparent", "x-b3-traceid"];
                self.request.extend(names.map(str::to_owned));
            }
            _ => {}
        }
    }

    /// Takes note of the fields that `service` is told of.
    fn told(&mut self, service: &LogService) {
        match &service.says {
            Says::Http {
                request,
                response,
                trailers,
            } => {
                (self.way, self.certificates) = (true, true);
                self.trailers.extend_from_slice(trailers);
                let usual = ["referer", "x-envoy-original-path"];
                self.request.extend(usual.map(str::to_owned));
                self.request.extend_from_slice(request);
                self.response.extend_from_slice(response);
            }
            Says::Tcp => (self.way, self.certificates) = (true, true),
            Says::Otlp(said) => {
                let record = said.compile().unwrap_or_default();
                let attributes = record.attributes.iter().map(|(_, node)| node);
                for node in attributes.chain(&record.body) {
                    node.each(&mut |operator| self.needs(operator));
                }
            }
        }
        let tags = service.tags.values();
        let tags = tags.filter(|tag| tag.from == TagFrom::Header);
        self.request.extend(tags.map(|tag| tag.value.clone()));
    }

    /// Whether anything is logged.
    pub(crate) fn logs(&self) -> bool {
        !self.logs.is_empty()
    }

    /// Whether something of calls is to be noted on their way.
    pub(crate) fn notes(&self) -> bool {
        self.way || !self.response.is_empty() || !self.trailers.is_empty()
    }

    /// Writes a call where it belongs.
    pub(crate) fn write(&self, record: &Arc<AccessRecord>, seen: &Seen<'_>, writers: &Writers) {
        for log in &self.logs {
            if log
                .filter
                .as_ref()
                .is_some_and(|filter| !passes(filter, seen))
            {
                continue;
            }
            match &log.to {
                Goes::File {
                    path,
                    format,
                    writer,
                } => match writer.get_or_init(|| writers.open(path)) {
                    Some(writer) => writer.line(format, record),
                    None => writers.lost(),
                },
                Goes::Service { service, lane } => {
                    match lane.get_or_init(|| writers.services.open(service)) {
                        Some(lane) => lane.put(record),
                        None => writers.lost(),
                    }
                }
            }
        }
    }
}

fn passes(filter: &Filter, seen: &Seen<'_>) -> bool {
    let record = seen.record;
    match filter {
        Filter::Status(how, code) => how.holds(record.code.into(), *code),
        Filter::Duration(how, millis) => {
            let took = u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX);
            how.holds(took, *millis)
        }
        // Health checks of the proxy's own are no calls, so none comes by here.
        Filter::NotHealthCheck => true,
        Filter::Sample(share) => share.takes(fastrand::u32(..)),
        Filter::Header(header) => {
            let value = match header.name.as_str() {
                ":method" => Some(record.method.as_str()),
                ":path" => Some(record.path.as_str()),
                ":authority" | "host" => Some(record.authority.as_str()),
                name => {
                    let mut fields = record.request_headers.iter();
                    fields
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value.as_str())
                }
            };
            let held = match (&header.value, value) {
                (TextMatch::Present, value) => value.is_some(),
                (_, None) => false,
                (matcher, Some(value)) => matcher.holds(value.as_bytes()),
            };
            held != header.invert
        }
        Filter::Flags(flags) => {
            let name = record.flag.name();
            name != "-" && (flags.is_empty() || flags.iter().any(|flag| flag == name))
        }
        Filter::Grpc { statuses, except } => {
            let status = record.grpc_status;
            let status = status.unwrap_or_else(|| grpc_status(record.code));
            statuses.contains(&status) != *except
        }
        Filter::Expression(expression) => expression.holds(seen) == Some(true),
        Filter::All(parts) => parts.iter().all(|part| passes(part, seen)),
        Filter::Any(parts) => parts.iter().any(|part| passes(part, seen)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mesh::access_log::{Compare, Format};
    use crate::mesh::expression::Expression;
    use crate::mesh::route::{HeaderMatch, Share};
    use crate::telemetry::{Flag, Registry};

    fn record() -> AccessRecord {
        AccessRecord {
            code: 503,
            method: "GET".to_owned(),
            flag: Flag::Uh,
            duration: Duration::from_millis(120),
            request_headers: vec![("x-user".to_owned(), "anna".to_owned())],
            ..AccessRecord::default()
        }
    }

    fn holds(filter: &Filter) -> bool {
        let (record, registry) = (record(), Registry::default());
        passes(
            filter,
            &Seen {
                record: &record,
                registry: &registry,
            },
        )
    }

    fn header(name: &str, value: TextMatch, invert: bool) -> Filter {
        Filter::Header(HeaderMatch {
            name: name.to_owned(),
            value,
            invert,
        })
    }

    #[test]
    fn each_filter_lets_pass_what_it_says() {
        let anna = TextMatch::Exact("anna".to_owned());
        for (filter, expected) in [
            (Filter::Status(Compare::AtLeast, 500), true),
            (Filter::Status(Compare::AtMost, 499), false),
            (Filter::Status(Compare::Equal, 503), true),
            (Filter::Duration(Compare::AtLeast, 121), false),
            (Filter::Duration(Compare::AtLeast, 120), true),
            (Filter::NotHealthCheck, true),
            (Filter::Sample(Share::NONE), false),
            (Filter::Sample(Share::default()), true),
            (header("x-user", anna.clone(), false), true),
            (header("x-user", anna.clone(), true), false),
            (header("x-nope", anna, true), true),
            (header("x-nope", TextMatch::Present, false), false),
            (
                header(":method", TextMatch::Prefix("G".to_owned()), false),
                true,
            ),
            (Filter::Flags(vec![]), true),
            (Filter::Flags(vec!["UH".to_owned(), "NR".to_owned()]), true),
            (Filter::Flags(vec!["NR".to_owned()]), false),
            (
                Filter::Grpc {
                    statuses: vec![14],
                    except: false,
                },
                true,
            ),
            (
                Filter::Grpc {
                    statuses: vec![14],
                    except: true,
                },
                false,
            ),
            (
                Filter::Expression(Expression::new("response.code == 503").unwrap()),
                true,
            ),
            (
                Filter::Expression(Expression::new("request.headers['x-user'] == 'bob'").unwrap()),
                false,
            ),
            (
                Filter::All(vec![Filter::NotHealthCheck, Filter::Sample(Share::NONE)]),
                false,
            ),
            (
                Filter::Any(vec![Filter::NotHealthCheck, Filter::Sample(Share::NONE)]),
                true,
            ),
        ] {
            assert_eq!(holds(&filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_table_knows_which_fields_it_needs() {
        let format = Format::Text("%REQ(X-A?:PATH)% %RESP(X-B)% %REQ(x-a)%".to_owned());
        let logger = Logger::file("/dev/stdout", format).filtered(Some(Filter::Expression(
            Expression::new("has(response.headers['x-c'])").unwrap(),
        )));
        let table = LogTable::new(&[logger, Logger::off()]);
        assert_eq!(table.request, [":path", "x-a"]);
        assert_eq!(table.response, ["x-b", "x-c"]);
        assert!(table.notes() && !table.way && !table.certificates);
        let of = |text: &str| LogTable::new(&[Logger::file("x", Format::Text(text.to_owned()))]);
        assert!(of("%REQUEST_TX_DURATION%").way);
        assert!(of("%DOWNSTREAM_PEER_SUBJECT%").certificates);
        assert_eq!(of("%TRAILER(X-A)%").trailers, ["x-a"]);
        assert!(!of("%REQ(x-a)% %DURATION%").notes());
        assert!(table.logs());
        assert!(!LogTable::new(&[Logger::off()]).logs());
    }
}
