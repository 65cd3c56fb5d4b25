//! The examples as a user starts them: as processes, over loopback.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use crate::support::tools::{example, tool};

/// A server that is ended with the test.
struct Server {
    child: Child,
    address: String,
    /// Open, since it goes on printing.
    _output: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// Starts it, and takes the address from what it prints.
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().to_string();
        assert!(address.contains(':'), "{line:?}");
        Self {
            child,
            address,
            _output: output,
        }
    }

    fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
        ))
    }

    /// Status and body.
    fn execute(&self, body: &str) -> (u16, String) {
        let answer = self.send(&format!(
            "POST /execute HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        let status = answer[9..12].parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_string())
    }

    fn run(&self, code: &str) -> (u16, String) {
        self.execute(&serde_json::json!({ "code": code }).to_string())
    }

    /// Ctrl-C. How it ended.
    fn interrupt(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sandbox() -> Server {
    let mut command = example("js_sandbox");
    command.args(["--listen", "127.0.0.1:0"]);
    Server::start(command)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_bad_environment_is_reported_whole_and_at_once() {
    for name in ["axum", "hyper", "js_sandbox", "tonic", "tower_stack"] {
        let Output { status, stderr, .. } = example(name)
            .env("MEMORY_GUARD_MAX_PERCENT", "eighty")
            .env("MEMORY_GUARD_WAIT_TIMEOUT_SEC", "-1")
            .env("MEMORY_GUARD_MAX_WAITING", "many")
            .output()
            .unwrap();
        let stderr = text(&stderr);
        assert_eq!(status.code(), Some(2), "{name}: {stderr}");
        let said = "memory guard: 3 settings cannot be used\n";
        assert!(stderr.starts_with(said), "{name}: {stderr}");
        for line in [
            r#"MEMORY_GUARD_MAX_PERCENT = "eighty": expected a fraction above 0"#,
            r#"MEMORY_GUARD_WAIT_TIMEOUT_SEC = "-1": expected from 1 ms to 365 days"#,
            r#"MEMORY_GUARD_MAX_WAITING = "many": expected a whole number"#,
        ] {
            assert!(stderr.contains(line), "{name}: {line}\n{stderr}");
        }
    }
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let output = example("tower_stack")
        .env("MEMORY_GUARD_MAX_WAITNG", "3")
        .output()
        .unwrap();
    assert!(output.status.success());
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("did you mean MEMORY_GUARD_MAX_WAITING?"),
        "{stderr}"
    );
}

#[test]
fn bad_arguments_are_answered_with_the_usage() {
    for (arguments, said) in [
        ("--strom", "--strom: unknown"),
        ("--listen", "--listen needs an address"),
        ("--listen nowhere", "--listen nowhere: not an address"),
        ("--strict", "--strict comes after --storm"),
        ("--storm --seconds 0", "0: not a number of seconds"),
    ] {
        let words = arguments.split(' ');
        let output = example("js_sandbox").args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains(said) && stderr.contains("usage:"),
            "{stderr}"
        );
    }
}

#[test]
fn a_port_in_use_is_said_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = example("js_sandbox")
        .args(["--listen", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("cannot listen on {address}")));
}

#[test]
fn the_sandbox_answers_scripts_and_ends_with_ctrl_c() {
    let server = sandbox();
    assert_eq!(server.run("6 * 7"), (200, r#"{"result":42}"#.into()));
    assert_eq!(
        server.run("({ a: [1, 'x', null] })").1,
        r#"{"result":{"a":[1,"x",null]}}"#
    );
    assert_eq!(server.run("undefined").1, r#"{"result":null}"#);
    let odd = r#"({ d: new Date(0), u: undefined, f() {}, 'k"': -0, n: [NaN, 1e300, 0.1, () => 1], s: 'a\n\u0001é' })"#;
    let (status, answer) = server.run(odd);
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let expected = serde_json::json!({
        "d": "1970-01-01T00:00:00.000Z", "k\"": 0, "n": [null, 1e300, 0.1, null], "s": "a\n\u{1}é"
    });
    assert_eq!(answer["result"], expected);
    assert!(server.get("/health").ends_with("ok"));
    let stats = server.get("/stats");
    assert!(stats.contains(r#""completed_requests":4"#), "{stats}");
    assert_eq!(server.interrupt(), Some(0));
}

#[test]
fn hostile_scripts_get_an_error_and_leave_the_server_serving() {
    let server = sandbox();
    let failing = [
        ("let x = ;", "unexpected token"),
        ("throw new Error('mine')", "mine"),
        ("throw 'text'", "text"),
        ("const f = () => f(); f()", "stack"),
        ("'x'.repeat(2 ** 29)", "more than 256 MiB"),
        (
            "const a = []; for (;;) a.push(new Array(1000).fill(1))",
            "more than 256 MiB",
        ),
        (
            "let a = []; for (;;) a.push('x'.repeat(1e7), await host.fetch(1))",
            "more than 256 MiB",
        ),
        (
            "const f = async () => { await null; await f() }; await f()",
            // For too long, where the processor is busy.
            "the script",
        ),
        ("'x'.repeat(1e9)", "the script"),
        ("10n", "BigInt"),
        ("const a = {}; a.a = a; a", "circular"),
        ("({ get a() { throw new Error('mine') } })", "mine"),
        (
            "const f = () => ({ get a() { return f() } }); f()",
            "nested too deeply",
        ),
        ("'\\ud800'", "not Unicode"),
        ("throw '\\x01'.repeat(2e7)", "error"),
        ("throw new Error('x'.repeat(2e7))", "xxx"),
        (
            "Array.prototype.toJSON = () => [[[]]]; []",
            "nested too deeply",
        ),
    ];
    let too_large = [
        "'x'.repeat(6 << 20)",
        "new Array(6 << 20).fill(1)",
        "new Array(3e9)",
        "({ get a() { return 'x'.repeat(6 << 20) } })",
        // Another answer in the second walk.
        "let n = 0; ({ get a() { n += 3; return 'x'.repeat(n << 20) } })",
        "Object.prototype.toJSON = () => 'x'.repeat(6 << 20); ({})",
    ]
    .map(|code| (code, 413, "result is larger than the limit"));
    let failing = failing.map(|(code, said)| (code, 422, said));
    for (code, status, said) in failing.into_iter().chain(too_large) {
        let (got, body) = server.run(code);
        assert_eq!(got, status, "{code}: {body}");
        assert!(body.contains(said), "{code}: {body}");
        serde_json::from_str::<serde_json::Value>(&body).expect(&body);
    }
    for (body, status, said) in [
        ("{}", 400, r#"expected {\"code\""#),
        ("{", 400, "Failed to parse"),
        (r#"{"code": 7}"#, 400, r#"expected {\"code\""#),
    ] {
        let (got, answer) = server.execute(body);
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer.contains(said), "{body}: {answer}");
    }
    assert_eq!(server.run("1 + 1").1, r#"{"result":2}"#);
}

#[test]
fn scripts_wait_for_their_host_beside_each_other() {
    let server = sandbox();
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let server = &server;
            scope.spawn(move || {
                let code = format!("await host.fetch(150); await host.fetch(150); {number}");
                let answer = server.run(&code);
                assert_eq!(answer, (200, format!(r#"{{"result":{number}}}"#)));
            });
        }
    });
    let took = started.elapsed().as_millis();
    assert!((300..2000).contains(&took), "{took} ms");
    for (code, status, said) in [
        (
            "(async () => { await host.fetch(5); return [7]; })()",
            200,
            "[7]",
        ),
        (
            "Promise.all([5, 1].map((ms) => host.fetch(ms))).then(() => 8)",
            200,
            "8",
        ),
        ("host.fetch(1e9); 9", 200, "9"),
        ("await host.fetch(5); throw new Error('mine')", 422, "mine"),
        ("host.fetch(-1)", 422, "expected milliseconds"),
        ("for (;;) host.fetch(1e9)", 422, "more than 64 calls"),
        ("await new Promise(() => {})", 422, "waits for nothing"),
    ] {
        let (got, body) = server.run(code);
        assert_eq!(got, status, "{code}: {body}");
        assert!(body.contains(said), "{code}: {body}");
    }
}

#[test]
fn endless_scripts_are_stopped() {
    let server = sandbox();
    std::thread::scope(|scope| {
        for code in [
            "for (;;);",
            "({ get a() { for (;;); } })",
            "for (;;) await null",
            "await host.fetch(1); try { for (;;); } finally { for (;;); }",
        ] {
            let server = &server;
            scope.spawn(move || {
                let (status, body) = server.run(code);
                assert_eq!(status, 422, "{code}: {body}");
                assert!(body.contains("ran for longer than 5 s"), "{code}: {body}");
            });
        }
    });
    assert_eq!(server.run("1 + 1").1, r#"{"result":2}"#);
}

#[test]
fn the_limit_of_results_comes_from_the_environment() {
    let mut command = example("js_sandbox");
    command
        .args(["--listen", "127.0.0.1:0"])
        .env("MAX_RESULT_SIZE", "1k");
    let server = Server::start(command);
    assert_eq!(server.run("'x'.repeat(1022)").0, 200);
    assert_eq!(server.run("'x'.repeat(1023)").0, 413);
}

#[test]
fn a_script_whose_caller_is_gone_is_stopped() {
    let server = sandbox();
    let active = |n: u32| {
        let wanted = format!(r#""active_tasks":{n},"#);
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            server.get("/stats").contains(&wanted)
        })
    };
    for code in ["for (;;);", "await host.fetch(5000)"] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let body = serde_json::json!({ "code": code }).to_string();
        let head = "POST /execute HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        assert!(active(1), "{code}");
        drop(stream);
        // Long before its own five seconds are over.
        assert!(active(0), "{code}");
    }
}

#[test]
fn axum_answers() {
    let mut command = example("axum");
    command.arg("127.0.0.1:0");
    let server = Server::start(command);
    assert!(
        server
            .get("/render?mb=5")
            .ends_with("rendered 5242880 bytes\n")
    );
    assert!(server.get("/render?mb=many").starts_with("HTTP/1.1 400"));
    assert!(server.get("/health").ends_with("ok\n"));
    assert!(server.get("/stats").contains(r#""active_tasks":0"#));
    assert_eq!(server.interrupt(), Some(0));
}

#[test]
fn hyper_answers() {
    let mut command = example("hyper");
    command.arg("127.0.0.1:0");
    let server = Server::start(command);
    assert!(server.get("/").ends_with("10485760 bytes\n"));
    assert_eq!(server.interrupt(), Some(0));
}

#[test]
fn hyper_answers_under_valgrind() {
    let Some(valgrind) = tool("valgrind") else {
        return;
    };
    let mut command = Command::new(valgrind);
    command
        .env_clear()
        .args(["-q", "--leak-check=no", "--error-exitcode=7"])
        .arg(example("hyper").get_program())
        .arg("127.0.0.1:0");
    let server = Server::start(command);
    assert!(server.get("/").ends_with("10485760 bytes\n"));
    assert_eq!(server.interrupt(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tonic_answers() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mut command = example("tonic");
    command.arg("127.0.0.1:0");
    let server = Server::start(command);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address));
    let endpoint = endpoint.unwrap();
    // Twice: once the second is accepted, the server listens for signals, too.
    for _ in 0..2 {
        let mut client = HealthClient::new(endpoint.connect().await.unwrap());
        let request = HealthCheckRequest {
            service: String::new(),
        };
        assert_eq!(client.check(request).await.unwrap().into_inner().status, 1);
    }
    assert_eq!(server.interrupt(), Some(0));
}

#[test]
fn tower_stack_shows_both_flavours() {
    let output = example("tower_stack").output().unwrap();
    assert!(output.status.success());
    let stdout = text(&output.stdout);
    assert!(stdout.contains("http: 200 OK") && stdout.contains("http: request timed out"));
    assert!(stdout.contains("any: service overloaded"), "{stdout}");
}
