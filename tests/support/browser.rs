//! A headless Chromium, driven over a pair of pipes by its debugging protocol.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use super::tools::Started;

/// A browser with one page.
pub(crate) struct Browser {
    to: File,
    from: BufReader<File>,
    session: Value,
    last: u64,
    /// What the page complained of.
    pub(crate) complaints: Vec<String>,
    _process: Started,
    profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start(chromium: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let pipe = |name: &str| {
            let path = profile.path().join(name);
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        let mut command = Command::new("sh");
        // Commands come in as file 3, answers go out as file 4.
        command
            .args(["-c", "exec timeout 180 \"$0\" \"$@\" 3<\"$TO\" 4>\"$FROM\""])
            .arg(chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("TO", &to)
            .env("FROM", &from)
            .stdout(Stdio::null())
            .stderr(File::create(profile.path().join("said")).unwrap());
        let process = Started::new(&mut command);
        let mut browser = Self {
            to: File::options().write(true).open(&to).unwrap(),
            from: BufReader::new(File::open(&from).unwrap()),
            session: Value::Null,
            last: 0,
            complaints: Vec::new(),
            _process: process,
            profile,
        };
        let target = browser.ask("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.ask("Target.attachToTarget", attach)["sessionId"].take();
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.ask(domain, json!({}));
        }
        browser
    }

    /// The answer to one command; blocks until it is there.
    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).unwrap();
            if bytes.pop().is_none() {
                let said = std::fs::read_to_string(self.profile.path().join("said"));
                panic!("{method}: the browser is gone: {said:?}");
            }
            let mut message: Value = serde_json::from_slice(&bytes).unwrap();
            if message["id"] == self.last {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.complaints.push(message.to_string()),
                Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => {
                    self.complaints.push(message.to_string());
                }
                _ => {}
            }
        }
    }

    /// Opens a page as wide as this, light or dark.
    pub(crate) fn open(&mut self, url: &str, width: u32, dark: bool) {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", size);
        let value = if dark { "dark" } else { "light" };
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.ask("Emulation.setEmulatedMedia", scheme);
        self.ask("Page.navigate", json!({"url": url}));
    }

    /// What an expression comes to on the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true});
        self.ask("Runtime.evaluate", parameters)["result"]["value"].take()
    }

    /// Waits until an expression is true on the page.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        let started = Instant::now();
        while self.evaluate(expression) != true {
            let text = || "document.body && document.body.innerText";
            if started.elapsed() > Duration::from_secs(30) {
                panic!("never: {expression}\n{}", self.evaluate(text()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A picture of the whole page, as PNG.
    pub(crate) fn screenshot(&mut self) -> Vec<u8> {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.ask("Page.captureScreenshot", parameters);
        let data = picture["data"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .unwrap()
    }
}
