//! Which class a method and a path belong to.

use std::collections::BTreeMap;

use http::Method;
use matchit::Router;

use crate::class::Class;
use crate::error::Problem;

/// A route may be for one of these alone.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];
/// More, and `matchit` panics.
const MOST_PARAMETERS: usize = 25;

#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Of two patterns that part where one of them has a parameter, the more literal is
    /// in an earlier router. So none of them goes back in its search, which would cost
    /// an allocation.
    routers: Vec<Router<Vec<Route>>>,
}

/// One of those that have the same path.
#[derive(Debug)]
struct Route {
    pattern: String,
    /// `None`: any.
    method: Option<Method>,
    class: Class,
}

/// What a path is made of. Ordered: the more literal is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Byte(u8),
    Parameter,
    Rest,
}

impl Routes {
    pub(super) fn new(given: Vec<(String, Class)>, problems: &mut Vec<Problem>) -> Self {
        let mut paths: BTreeMap<Vec<Piece>, (String, Vec<Route>)> = BTreeMap::new();
        for (pattern, class) in given {
            let (method, path, pieces) = match parse(&pattern) {
                Ok(parsed) => parsed,
                Err(expected) => {
                    problems.push(problem(pattern, expected));
                    continue;
                }
            };
            let (_, routes) = paths
                .entry(pieces)
                .or_insert_with(|| (path.to_owned(), Vec::new()));
            match routes.iter().find(|other| other.method == method) {
                Some(other) => {
                    let expected = format!("other requests than those of {:?}", other.pattern);
                    problems.push(problem(pattern, expected));
                }
                None => routes.push(Route {
                    pattern,
                    method,
                    class,
                }),
            }
        }
        Self::of_paths(paths, problems)
    }

    fn of_paths(
        paths: BTreeMap<Vec<Piece>, (String, Vec<Route>)>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut routers: Vec<Router<Vec<Route>>> = Vec::new();
        let mut members: Vec<Vec<Vec<Piece>>> = Vec::new();
        for (pieces, (path, routes)) in paths {
            let before = members
                .iter()
                .rposition(|others| others.iter().any(|other| part(other, &pieces)));
            let at = before.map_or(0, |before| before + 1);
            if at == routers.len() {
                routers.push(Router::new());
                members.push(Vec::new());
            }
            members[at].push(pieces);
            if let Err(error) = routers[at].insert(path.clone(), routes) {
                problems.push(problem(path, format!("a path pattern ({error})")));
            }
        }
        Self { routers }
    }

    /// The class of the most literal pattern that fits.
    pub(super) fn find(&self, method: &Method, path: &str) -> Option<&Class> {
        self.routers.iter().find_map(|router| {
            let routes = router.at(path).ok()?.value;
            let of = |method: Option<&Method>| {
                let mut routes = routes.iter();
                routes.find(|route| route.method.as_ref() == method)
            };
            // Whoever serves GET answers HEAD.
            let as_get = || of(Some(&Method::GET)).filter(|_| *method == Method::HEAD);
            let route = of(Some(method)).or_else(as_get).or_else(|| of(None));
            route.map(|route| &route.class)
        })
    }
}

/// They part where one has a parameter; `second` is the less literal.
fn part(first: &[Piece], second: &[Piece]) -> bool {
    let mut pairs = first.iter().zip(second);
    let parting = pairs.find(|(first, second)| first != second);
    parting.is_some_and(|(_, second)| !matches!(second, Piece::Byte(_)))
}

/// Method, path and what the path is made of; or what would be right.
fn parse(pattern: &str) -> Result<(Option<Method>, &str, Vec<Piece>), String> {
    let (method, path) = match pattern.trim().split_once(' ') {
        Some((method, path)) => (Some(method), path.trim_start()),
        None => (None, pattern.trim()),
    };
    let method = match method {
        None => None,
        Some(name) => match METHODS.into_iter().find(|known| known.as_str() == name) {
            Some(method) => Some(method),
            None => {
                let names = METHODS.map(|method| method.to_string()).join(", ");
                return Err(format!("a path, or before it one of {names}"));
            }
        },
    };
    Ok((method, path, pieces(path)?))
}

fn pieces(path: &str) -> Result<Vec<Piece>, String> {
    let Some(segments) = path.strip_prefix('/') else {
        return Err("a path that begins with \"/\"".into());
    };
    if path.contains(|c: char| c.is_whitespace() || c == '?' || c == '#') {
        return Err("a path without spaces, \"?\" and \"#\"".into());
    }
    if path.matches('{').count() > MOST_PARAMETERS {
        return Err(format!("at most {MOST_PARAMETERS} parameters"));
    }
    let mut pieces = Vec::new();
    for segment in segments.split('/') {
        if pieces.last() == Some(&Piece::Rest) {
            return Err("nothing after \"{*name}\"".into());
        }
        pieces.push(Piece::Byte(b'/'));
        let (text, parameter) = match segment.split_once('{') {
            Some((text, parameter)) => (text, Some(parameter)),
            None => (segment, None),
        };
        if text.contains('}') || text.starts_with([':', '*']) {
            return Err("parameters such as \"{name}\" or \"{*name}\"".into());
        }
        pieces.extend(text.bytes().map(Piece::Byte));
        if let Some(parameter) = parameter {
            pieces.push(self::parameter(parameter)?);
        }
    }
    Ok(pieces)
}

/// What follows the opening brace, up to the end of the segment.
fn parameter(rest: &str) -> Result<Piece, String> {
    let Some(name) = rest.strip_suffix('}') else {
        return Err("segments that end with \"}\" if they have a \"{\"".into());
    };
    let (piece, name) = match name.strip_prefix('*') {
        Some(name) => (Piece::Rest, name),
        None => (Piece::Parameter, name),
    };
    if name.is_empty() || name.contains(['{', '}', '*']) {
        return Err("one parameter with a name in a segment".into());
    }
    Ok(piece)
}

fn problem(pattern: String, expected: String) -> Problem {
    Problem {
        setting: "route".into(),
        value: pattern,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pattern's class has the pattern for its name.
    fn routes(patterns: &[&'static str]) -> (Routes, Vec<Problem>) {
        let mut problems = Vec::new();
        let given = patterns
            .iter()
            .map(|&pattern| (pattern.to_owned(), Class::new(pattern)));
        let routes = Routes::new(given.collect(), &mut problems);
        (routes, problems)
    }

    fn find(routes: &Routes, request: &str) -> Option<String> {
        let (method, path) = request.split_once(' ').unwrap();
        let class = routes.find(&method.parse().unwrap(), path)?;
        Some(class.name.to_string())
    }

    #[track_caller]
    fn assert_found(patterns: &[&'static str], expected: &[(&str, Option<&str>)]) {
        let mut reversed = patterns.to_vec();
        reversed.reverse();
        for patterns in [patterns, &reversed] {
            let (routes, problems) = routes(patterns);
            assert_eq!(problems, []);
            for &(request, pattern) in expected {
                assert_eq!(find(&routes, request).as_deref(), pattern, "{request}");
            }
        }
    }

    #[test]
    fn patterns_are_those_of_axum() {
        assert_found(
            &[
                "/",
                "/render/{id}",
                "/reports/{*path}",
                "/package.Service/Method",
                "/files/v{version}",
            ],
            &[
                ("GET /", Some("/")),
                ("GET /render/7", Some("/render/{id}")),
                ("GET /render", None),
                ("GET /render/7/8", None),
                ("GET /reports/2024/q1", Some("/reports/{*path}")),
                ("GET /reports/", None),
                (
                    "POST /package.Service/Method",
                    Some("/package.Service/Method"),
                ),
                ("GET /files/v2", Some("/files/v{version}")),
                ("GET /files/2", None),
                ("OPTIONS *", None),
            ],
        );
    }

    #[test]
    fn the_more_literal_pattern_counts_whatever_the_order() {
        assert_found(
            &[
                "/{*rest}",
                "/{page}",
                "/users/{id}",
                "/users/me",
                "/users/m{rest}",
                "/users/{id}/posts",
                "/users/me/{*rest}",
            ],
            &[
                ("GET /users/me", Some("/users/me")),
                ("GET /users/mine", Some("/users/m{rest}")),
                ("GET /users/7", Some("/users/{id}")),
                ("GET /users/7/posts", Some("/users/{id}/posts")),
                ("GET /users/me/posts", Some("/users/me/{*rest}")),
                ("GET /users/7/likes", Some("/{*rest}")),
                ("GET /users", Some("/{page}")),
                ("GET /", None),
            ],
        );
    }

    #[test]
    fn a_route_with_a_method_goes_before_one_for_any() {
        assert_found(
            &["/a/{x}", "POST /a/{y}", "GET /a/{z}", "GET /a/b", "PUT /c"],
            &[
                ("POST /a/1", Some("POST /a/{y}")),
                ("DELETE /a/1", Some("/a/{x}")),
                ("PURGE /a/1", Some("/a/{x}")),
                ("HEAD /a/1", Some("GET /a/{z}")),
                ("GET /a/b", Some("GET /a/b")),
                // The more literal path has no route for it.
                ("POST /a/b", Some("POST /a/{y}")),
                ("GET /c", None),
                ("HEAD /c", None),
            ],
        );
    }

    #[test]
    fn what_is_no_pattern_is_a_problem() {
        let long = "/{a}".repeat(26);
        let bad = [
            "",
            "health",
            "GET",
            "get /",
            "GTE /",
            "GET POST /",
            "/a?b=c",
            "/a b",
            "/{",
            "/}",
            "/{}",
            "/{*}",
            "/{*a}/b",
            "/{a}b",
            "/{a}{b}",
            "/{a/b}",
            "/{{a}}",
            "/:a",
            "/*a",
            &long,
        ];
        for pattern in bad {
            let mut problems = Vec::new();
            Routes::new(vec![(pattern.into(), Class::default())], &mut problems);
            assert_eq!(problems.len(), 1, "{pattern:?}: {problems:?}");
            assert_eq!(problems[0].value, pattern);
        }
    }

    #[test]
    fn routes_for_the_same_requests_are_a_problem() {
        let patterns = ["/a/{x}", "GET /a/{x}", "GET  /a/{y}", "/a/{*z}", "/a/{z}"];
        let (_, problems) = routes(&patterns);
        let at_fault: Vec<_> = problems.iter().map(|problem| &problem.value).collect();
        assert_eq!(at_fault, ["GET  /a/{y}", "/a/{z}"]);
        assert!(problems[0].expected.contains("\"GET /a/{x}\""));
    }
}
