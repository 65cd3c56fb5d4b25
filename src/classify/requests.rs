//! [`RequestClasses`]: what HTTP requests are, by method, path and headers.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, Method, Request};

use super::labels::{Classified, Demand, Labels};
use super::routes::Routes;
use super::sealed::Demands;
use crate::class::{Class, Priority};
use crate::error::{ConfigError, Problem};

/// Says what HTTP requests are by their method, path and headers.
///
/// For [`MemoryGuardLayer::classify_with`](crate::MemoryGuardLayer::classify_with):
///
/// ```
/// use http::HeaderName;
/// use tower_memory_guard::{Class, MemoryGuardLayer, Priority, RequestClasses};
///
/// let classes = RequestClasses::builder()
///     .route("GET /health", Class::new("health").priority(Priority::Critical))
///     .route("POST /render/{id}", Class::new("render").priority(Priority::High))
///     .route("/reports/{*path}", Class::new("report").priority(Priority::Low))
///     .otherwise(Class::new("page"))
///     .tenant_header(HeaderName::from_static("x-tenant"))
///     .cost_per_content_byte(3.0)
///     .build()?;
/// let layer = MemoryGuardLayer::builder().build()?.classify_with(classes);
/// # let app: axum::Router = axum::Router::new().layer(layer);
/// # Ok::<(), tower_memory_guard::ConfigError>(())
/// ```
///
/// Clones share the routes. Once its names are known, a request costs no allocation,
/// unless there are patterns with more than three parameters.
#[derive(Clone, Debug)]
pub struct RequestClasses(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    routes: Routes,
    otherwise: Class,
    tenant_header: Option<HeaderName>,
    tier_header: Option<HeaderName>,
    priority_header: Option<HeaderName>,
    cost_per_content_byte: Option<f64>,
}

impl RequestClasses {
    /// No routes: all requests are of the default class.
    pub fn builder() -> RequestClassesBuilder {
        RequestClassesBuilder::default()
    }
}

impl<B> Demands<Request<B>> for RequestClasses {
    #[inline]
    fn demand(&self, request: &Request<B>, labels: &Labels) -> Option<Demand> {
        let path = request.uri().path();
        let parts = self.0.parts(request.method(), path, request.headers());
        Some(labels.demand(parts))
    }
}

impl Rules {
    fn parts<'a>(&'a self, method: &Method, path: &str, headers: &'a HeaderMap) -> Classified<'a> {
        let class = self.routes.find(method, path).unwrap_or(&self.otherwise);
        let mut parts = Classified::from(class);
        if let Some(tenant) = text(headers, self.tenant_header.as_ref()) {
            parts.tenant = tenant;
        }
        if let Some(tier) = text(headers, self.tier_header.as_ref()) {
            parts.tier = tier;
        }
        if let Some(name) = text(headers, self.priority_header.as_ref()) {
            parts.priority = moved(parts.priority, name);
        }
        if let Some(factor) = self.cost_per_content_byte {
            parts.cost_bytes = content_cost(headers, factor).or(parts.cost_bytes);
        }
        parts
    }
}

/// A header's value; none, if it is empty or no UTF-8.
fn text<'a>(headers: &'a HeaderMap, name: Option<&HeaderName>) -> Option<&'a str> {
    let value = headers.get(name?)?;
    let text = std::str::from_utf8(value.as_bytes()).ok()?.trim();
    (!text.is_empty()).then_some(text)
}

/// A route's priority, as a header moves it: neither to critical, where a caller would
/// pass the queue, nor away from it.
fn moved(priority: Priority, name: &str) -> Priority {
    let mut all = Priority::ALL.into_iter();
    match all.find(|known| known.as_str().eq_ignore_ascii_case(name)) {
        Some(wanted) if priority != Priority::Critical => wanted.min(Priority::High),
        _ => priority,
    }
}

fn content_cost(headers: &HeaderMap, factor: f64) -> Option<u64> {
    let length: u64 = text(headers, Some(&CONTENT_LENGTH))?.parse().ok()?;
    // Saturates.
    let bytes = (length as f64 * factor).ceil() as u64;
    (bytes > 0).then_some(bytes)
}

/// Builds [`RequestClasses`].
///
/// Headers count only if they are asked for. Have a trusted proxy set them, and remove
/// what callers send under their names: who chooses a tenant or a priority chooses a
/// share of memory. A value that is empty or no UTF-8 counts as absent; of several, the
/// first counts.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RequestClassesBuilder {
    routes: Vec<(String, Class)>,
    rules: Rules,
}

impl RequestClassesBuilder {
    /// Requests that fit `pattern` are of `class`.
    ///
    /// A pattern is a path, for any method, or a method and a path: `/render`,
    /// `POST /render`. In the path `{name}` stands for a segment or the end of one, and
    /// `{*name}` for the rest of the path, as in axum. It is compared with the path as
    /// the layer sees it, not decoded; that of a gRPC call is `/package.Service/Method`.
    ///
    /// The order of routes does not matter. Of patterns that fit, the one counts that is
    /// literal for longer, from the left; of routes with the same path, the one with the
    /// request's method. One for GET is for HEAD too, if there is none for HEAD.
    pub fn route(mut self, pattern: impl Into<String>, class: Class) -> Self {
        self.routes.push((pattern.into(), class));
        self
    }

    /// What fits no route is of `class`. Default: [`Class::default`].
    pub fn otherwise(mut self, class: Class) -> Self {
        self.rules.otherwise = class;
        self
    }

    /// The header that names the [tenant](Class::tenant). Without it in a request, the
    /// class's counts. Default: none.
    pub fn tenant_header(mut self, name: HeaderName) -> Self {
        self.rules.tenant_header = Some(name);
        self
    }

    /// The header that names the tenant's [tier](Class::tier). Without it in a request,
    /// the class's counts. Default: none.
    pub fn tier_header(mut self, name: HeaderName) -> Self {
        self.rules.tier_header = Some(name);
        self
    }

    /// The header that says `high`, `normal` or `low` in the place of the class's
    /// priority. Other values count as absent. Default: none.
    ///
    /// Only a class makes requests [`Priority::Critical`], which pass every waiter: the
    /// header's `critical` counts as `high`, and what is critical by its class stays so
    /// whatever the header says.
    pub fn priority_header(mut self, name: HeaderName) -> Self {
        self.rules.priority_header = Some(name);
        self
    }

    /// The [cost](Class::cost) of a request with a Content-Length is this times its
    /// bytes; finite and above 0. Others, and those of length 0, have their class's.
    /// Default: none.
    pub fn cost_per_content_byte(mut self, factor: f64) -> Self {
        self.rules.cost_per_content_byte = Some(factor);
        self
    }

    /// Checks the routes and the factor.
    ///
    /// # Errors
    ///
    /// Lists every pattern that is none, every route for the requests of an earlier one,
    /// and a factor that cannot be used.
    pub fn build(self) -> Result<RequestClasses, ConfigError> {
        let mut problems = Vec::new();
        let mut rules = self.rules;
        rules.routes = Routes::new(self.routes, &mut problems);
        if let Some(factor) = rules.cost_per_content_byte {
            if !(factor.is_finite() && factor > 0.0) {
                problems.push(Problem {
                    setting: "cost_per_content_byte".into(),
                    value: factor.to_string(),
                    expected: "a finite number above 0".into(),
                });
            }
        }
        if problems.is_empty() {
            Ok(RequestClasses(Arc::new(rules)))
        } else {
            Err(ConfigError { problems })
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn name(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    fn all_headers() -> RequestClassesBuilder {
        let page = Class::new("page").tenant("own").tier("free").cost(7);
        RequestClasses::builder()
            .route("/health", Class::new("health").priority(Priority::Critical))
            .otherwise(page)
            .tenant_header(name("x-tenant"))
            .tier_header(name("x-tier"))
            .priority_header(name("x-priority"))
            .cost_per_content_byte(2.5)
    }

    fn headers(of: &[(&'static str, &[u8])]) -> HeaderMap {
        let value = |bytes| HeaderValue::from_bytes(bytes).unwrap();
        of.iter()
            .map(|&(header, bytes)| (name(header), value(bytes)))
            .collect()
    }

    fn parts<'a>(
        classes: &'a RequestClasses,
        path: &str,
        headers: &'a HeaderMap,
    ) -> Classified<'a> {
        classes.0.parts(&Method::GET, path, headers)
    }

    #[test]
    fn a_request_without_a_route_is_of_the_other_class() {
        let none = HeaderMap::new();
        let classes = RequestClasses::builder()
            .route("/a", Class::new("a"))
            .build();
        let classes = classes.unwrap();
        assert_eq!(parts(&classes, "/a", &none).name, "a");
        assert_eq!(parts(&classes, "/b", &none).name, "");
        let classes = all_headers().build().unwrap();
        assert_eq!(parts(&classes, "/b", &none).name, "page");
    }

    #[test]
    fn headers_go_before_the_class() {
        let classes = all_headers().build().unwrap();
        let given = headers(&[
            ("x-tenant", "zoë".as_bytes()),
            ("x-tier", b"gold"),
            ("x-priority", b"Low"),
            ("content-length", b"1001"),
        ]);
        let parts = parts(&classes, "/", &given);
        assert_eq!((parts.tenant, parts.tier), ("zoë", "gold"));
        assert_eq!(parts.priority, Priority::Low);
        assert_eq!(parts.cost_bytes, Some(2503));
    }

    #[test]
    fn headers_without_a_meaning_count_as_absent() {
        let classes = all_headers().build().unwrap();
        let given = headers(&[
            ("x-tenant", b"\xff"),
            ("x-tier", b" "),
            ("x-priority", b"urgent"),
            ("content-length", b"many"),
        ]);
        for given in [
            given,
            HeaderMap::new(),
            headers(&[("content-length", b"0")]),
        ] {
            let parts = parts(&classes, "/", &given);
            assert_eq!((parts.tenant, parts.tier), ("own", "free"));
            assert_eq!(parts.priority, Priority::Normal);
            assert_eq!(parts.cost_bytes, Some(7));
        }
    }

    #[test]
    fn headers_that_were_not_asked_for_say_nothing() {
        let classes = RequestClasses::builder().build().unwrap();
        let given = headers(&[
            ("x-tenant", b"acme"),
            ("x-tier", b"gold"),
            ("x-priority", b"low"),
            ("content-length", b"1000"),
        ]);
        let parts = parts(&classes, "/", &given);
        assert_eq!((parts.tenant, parts.tier), ("", ""));
        assert_eq!(parts.priority, Priority::Normal);
        assert_eq!(parts.cost_bytes, None);
    }

    #[test]
    fn a_header_makes_nothing_critical_and_nothing_critical_less() {
        let classes = all_headers().build().unwrap();
        for (path, value, expected) in [
            ("/", "critical", Priority::High),
            ("/", "high", Priority::High),
            ("/health", "critical", Priority::Critical),
            ("/health", "low", Priority::Critical),
        ] {
            let given = headers(&[("x-priority", value.as_bytes())]);
            let parts = parts(&classes, path, &given);
            assert_eq!(parts.priority, expected, "{path} {value}");
        }
    }

    #[test]
    fn a_huge_content_length_is_no_overflow() {
        let given = headers(&[("content-length", b"18446744073709551615")]);
        assert_eq!(content_cost(&given, f64::MAX), Some(u64::MAX));
    }

    #[test]
    fn all_that_cannot_be_used_is_one_error() {
        for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let builder = RequestClasses::builder().cost_per_content_byte(factor);
            assert!(builder.build().is_err(), "{factor}");
        }
        let error = RequestClasses::builder()
            .route("GET /a/{x}", Class::new("a"))
            .route("GET /a/{y}", Class::new("b"))
            .route("GTE /", Class::new("c"))
            .route("health", Class::new("d"))
            .cost_per_content_byte(-1.0)
            .build()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "memory guard: 4 settings cannot be used\
            \n  route = \"GET /a/{y}\": expected other requests than those of \"GET /a/{x}\"\
            \n  route = \"GTE /\": expected a path, or before it one of GET, HEAD, POST, PUT, \
            PATCH, DELETE, OPTIONS, TRACE, CONNECT\
            \n  route = \"health\": expected a path that begins with \"/\"\
            \n  cost_per_content_byte = \"-1\": expected a finite number above 0"
        );
    }
}
