//! A headless Chromium, spoken to in its DevTools Protocol over a pair of pipes: JSON, each message ended by a zero byte.
//!
//! Pages are looked at and used as a person would: with the mouse and the keyboard, and waiting for what is to be seen.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::oneshot;

use crate::harness::{PATIENCE, wait_until};

const REQUIRE: &str = "EVENKEEL_REQUIRE_CHROMIUM";
const PROGRAM: &str = "chromium";
/// Where screenshots of the documents' pages go, when they are wanted.
const SCREENSHOTS: &str = "EVENKEEL_SCREENSHOTS";
/// `--remote-debugging-pipe` reads from descriptor 3 and writes to 4.
const ON_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#;
const ARGUMENTS: [&str; 16] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    // The test's own authority signs the gateway's certificate.
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "about:blank",
];

/// Whether Chromium is there. Where it is not, the test is to be skipped, and says so past what captures output; with
/// `EVENKEEL_REQUIRE_CHROMIUM` it fails.
pub fn installed() -> bool {
    if Command::new(PROGRAM).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let remedy = "install Debian's package `chromium`";
    assert!(
        std::env::var_os(REQUIRE).is_none(),
        "{PROGRAM} is not installed, and {REQUIRE} is set: {remedy}"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}: {PROGRAM} is not installed; {remedy}\n");
    false
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// One page of a browser of its own. Dropping it ends the browser.
pub struct Page {
    commands: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    events: Arc<Mutex<Vec<Value>>>,
    last_id: AtomicU64,
    session: String,
    _child: Child,
    _folder: TempDir,
}

impl Page {
    /// An empty page of usual size.
    pub async fn open() -> Self {
        let folder = tempfile::Builder::new().prefix("evenkeel-chromium-").tempdir().unwrap();
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", ON_PIPES, PROGRAM]);
        command.arg(format!("--user-data-dir={}", folder.path().display()));
        if rustix::process::geteuid().is_root() {
            // Its sandbox refuses root. It shows nothing but what this repository serves.
            command.arg("--no-sandbox");
        }
        command.args(ARGUMENTS).env("HOME", folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (waiting, events) = (Waiting::default(), Arc::<Mutex<Vec<Value>>>::default());
        tokio::spawn(listen(answers, Arc::clone(&waiting), Arc::clone(&events)));
        let mut page = Self {
            commands: tokio::sync::Mutex::new(commands),
            waiting,
            events,
            last_id: AtomicU64::new(0),
            session: String::new(),
            _child: child,
            _folder: folder,
        };
        let targets = page.call("Target.getTargets", json!({})).await;
        let targets = targets["targetInfos"].as_array().unwrap();
        let target = targets.iter().find(|target| target["type"] == "page").unwrap();
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.call("Target.attachToTarget", attach).await;
        page.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page.size(1280, 860).await;
        page
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_call(&self, method: &str, params: Value) -> Result<Value, String> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(id, answer);
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.lock().await.write_all(&bytes).await.map_err(|error| error.to_string())?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the browser has ended".to_owned()),
            Err(_) => Err(format!("no answer in {PATIENCE:?}")),
        }
    }

    // ---- going and looking

    /// Goes to an address, which may be that of another view of the same document.
    pub async fn go(&self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url})).await;
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
    }

    /// Runs this in every document before its own scripts.
    pub async fn prepare(&self, script: &str) {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": script})).await;
    }

    /// What an expression of JavaScript gives; a promise is awaited.
    pub async fn value(&self, expression: &str) -> Value {
        self.try_value(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    async fn try_value(&self, expression: &str) -> Result<Value, String> {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut evaluated = self.try_call("Runtime.evaluate", params).await?;
        match evaluated.get("exceptionDetails") {
            Some(details) => Err(details.to_string()),
            None => Ok(evaluated["result"]["value"].take()),
        }
    }

    /// Waits until an element has such a text.
    pub async fn until(&self, selector: &str, what: &str, holds: impl Fn(&str) -> bool) -> String {
        wait_until(&format!("{selector}: {what}"), async || {
            // Documents come and go.
            let found =
                self.try_value(&format!("document.querySelector({})?.innerText", json!(selector))).await;
            match found.as_ref().map(Value::as_str) {
                Ok(Some(text)) if holds(text) => Ok(text.to_owned()),
                _ => Err(format!("{found:?}")),
            }
        })
        .await
    }

    /// Waits until an element has this in its text.
    pub async fn until_contains(&self, selector: &str, part: &str) -> String {
        self.until(selector, part, |text| text.contains(part)).await
    }

    /// Waits until an expression is true.
    pub async fn until_true(&self, expression: &str) {
        wait_until(expression, async || match self.try_value(expression).await {
            Ok(Value::Bool(true)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    // ---- using

    /// Clicks in the middle of an element, once it is there, can be used, and nothing lies over it.
    pub async fn click(&self, selector: &str) {
        let middle = format!(
            "(() => {{
                const element = document.querySelector({});
                if (!element || element.disabled) return null;
                element.scrollIntoView({{block: 'nearest'}});
                const box = element.getBoundingClientRect();
                const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                return element.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
            }})()",
            json!(selector)
        );
        let at = wait_until(&format!("{selector} to be clicked"), async || {
            let at = self.try_value(&middle).await?;
            at.is_array().then_some(at).ok_or_else(|| "it is not there, disabled, or covered".to_owned())
        })
        .await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a key: `Tab`, `Enter`, `Escape`.
    pub async fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            other => panic!("{other}: not a key of these stories"),
        };
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if key == "Enter" {
            down["text"] = "\r".into();
        }
        self.call("Input.dispatchKeyEvent", down).await;
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).await;
    }

    pub async fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    // ---- what it is shown on

    pub async fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub async fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Takes a picture for the documents, where pictures are wanted.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os(SCREENSHOTS) else { return };
        let taken = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = BASE64_STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }

    // ---- what it noticed

    /// The accessibility tree, as screen readers get it.
    pub async fn accessible(&self) -> Vec<Value> {
        let mut tree = self.call("Accessibility.getFullAXTree", json!({})).await;
        let Value::Array(nodes) = tree["nodes"].take() else { panic!("no tree: {tree}") };
        nodes.into_iter().filter(|node| node["ignored"] != true).collect()
    }

    /// Errors that the page or the browser reported, but failed requests for which `expected` holds.
    pub fn errors(&self, expected: impl Fn(&str) -> bool) -> Vec<String> {
        let events = self.events.lock();
        let error = |event: &Value| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(params.to_string()),
                "Runtime.consoleAPICalled" if params["type"] == "error" || params["type"] == "warning" => {
                    Some(params.to_string())
                }
                "Log.entryAdded" if params["entry"]["level"] == "error" => {
                    let url = params["entry"]["url"].as_str().unwrap_or_default();
                    (!(params["entry"]["source"] == "network" && expected(url))).then(|| params.to_string())
                }
                _ => None,
            }
        };
        events.iter().filter_map(error).collect()
    }

    /// Every address that was asked for.
    pub fn requests(&self) -> Vec<String> {
        let events = self.events.lock();
        let sent = events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

async fn listen(answers: ChildStdout, waiting: Waiting, events: Arc<Mutex<Vec<Value>>>) {
    let mut answers = BufReader::new(answers).split(0);
    while let Ok(Some(bytes)) = answers.next_segment().await {
        let Ok(mut message) = serde_json::from_slice::<Value>(&bytes) else { continue };
        let Some(id) = message["id"].as_u64() else {
            events.lock().push(message);
            continue;
        };
        if let Some(answer) = waiting.lock().remove(&id) {
            let result = match message.get("error") {
                Some(error) => Err(error.to_string()),
                None => Ok(message["result"].take()),
            };
            // Who asked may have given up.
            let _ = answer.send(result);
        }
    }
    waiting.lock().clear();
}
