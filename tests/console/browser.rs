//! The console in a real browser: chromium, driven by chromedriver.

use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::Console;
use crate::support::{free_ports, until};

/// Whether both programs are there; the script says what to install.
static FOUND: LazyLock<bool> = LazyLock::new(|| {
    let finds = Command::new("deploy/local/browser").status();
    finds.is_ok_and(|status| status.success())
});

/// A browser with one window.
pub(super) struct Browser {
    driver: Child,
    pub(super) client: Client,
    url: String,
    _profile: tempfile::TempDir,
}

/// A command of the Chrome DevTools Protocol.
#[derive(Debug)]
struct Cdp(&'static str, Value);

impl WebDriverCompatibleCommand for Cdp {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "cmd": self.0, "params": self.1 }).to_string()))
    }
}

impl Browser {
    pub(super) async fn start(console: &Console) -> Self {
        assert!(*FOUND, "no browser; what `deploy/local/browser` prints says what to install");
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let port = free_ports(1)[0];
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            // Chromium leaves a folder behind where temporary files are.
            .env("TMPDIR", profile.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");

        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({ "args": arguments });
        let capabilities = json!({ "goog:chromeOptions": options, "browserName": "chrome" });
        let Value::Object(capabilities) = capabilities else { panic!("an object") };
        let driver_url = format!("http://127.0.0.1:{port}");
        let client = until("chromium starts", async || {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities.clone()).connect(&driver_url).await.ok()
        })
        .await;

        Self { driver, client, url: console.url.clone(), _profile: profile }
    }

    pub(super) async fn goto(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.url)).await.expect("the page loads");
    }

    pub(super) async fn sign_in(&self, token: &str) {
        self.goto("/sign-in").await;
        self.fill("token", token).await;
        self.click("Sign in").await;
        self.sees("Overview").await;
    }

    /// Types into the field of this name.
    pub(super) async fn fill(&self, name: &str, text: &str) {
        let field = Locator::Css(&format!("main [name=\"{name}\"]"));
        let field = self.client.find(field).await.unwrap_or_else(|_| panic!("no field {name}"));
        field.clear().await.expect("the field is empty");
        field.send_keys(text).await.expect("the text is typed");
    }

    /// Clicks the first button or link with this text, whose page loads then.
    pub(super) async fn click(&self, text: &str) {
        let path =
            format!("//*[self::a or self::button][starts-with(normalize-space(.), '{text}')]");
        until(&format!("there is {text:?} to click"), async || {
            // The page may replace what was found.
            let found = self.client.find(Locator::XPath(&path)).await.ok()?;
            found.click().await.ok()
        })
        .await;
    }

    /// Presses or releases the mouse on the first link that begins with this text.
    pub(super) async fn mouse(&self, what: &str, text: &str) {
        let place = format!(
            "const link = [...document.links].find((a) => a.innerText.startsWith('{text}')); \
             link.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const at = link.getBoundingClientRect(); return [at.x + 5, at.y + 5]"
        );
        let place = self.run(&place).await;
        let event = json!({ "type": what, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
        let event = Cdp("Input.dispatchMouseEvent", event);
        self.client.issue_cmd(event).await.expect("chromium takes it");
    }

    /// Waits until the page shows a text.
    pub(super) async fn sees(&self, text: &str) -> String {
        until(&format!("the page shows {text:?}"), async || {
            let page = self.text().await;
            page.contains(text).then_some(page)
        })
        .await
    }

    /// What a person reads on the page.
    pub(super) async fn text(&self) -> String {
        match self.client.find(Locator::Css("body")).await {
            Ok(body) => body.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Presses a key: `Tab`, `Enter`, or one that types a character.
    pub(super) async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            typed => (0, typed),
        };
        let mut down = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
        let mut up = down.clone();
        up["type"] = json!("keyUp");
        if text.is_empty() {
            down["type"] = json!("rawKeyDown");
        }

        for event in [down, up] {
            let key = Cdp("Input.dispatchKeyEvent", event);
            self.client.issue_cmd(key).await.expect("chromium takes it");
        }
    }

    /// Presses Tab until a control with this text or name has the focus, which must be seen there.
    pub(super) async fn tab_to(&self, wanted: &str) {
        let focused = "const e = document.activeElement, o = getComputedStyle(e); \
                       return [e.name || e.innerText || '', o.outlineStyle + o.outlineWidth]";
        for _ in 0..80 {
            self.press("Tab").await;
            let focused = self.run(focused).await;
            assert_eq!(focused[1], "solid3px", "the focus is not seen: {focused}");
            if focused[0] == wanted {
                return;
            }
        }
        panic!("no Tab leads to {wanted:?}");
    }

    /// Whether pages run scripts from now on.
    pub(super) async fn scripts(&self, are_run: bool) {
        let value = json!({ "value": !are_run });
        let disabled = Cdp("Emulation.setScriptExecutionDisabled", value);
        self.client.issue_cmd(disabled).await.expect("chromium takes it");
    }

    /// What a script in the page returns.
    pub(super) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("the script runs")
    }

    /// A window of this width, with light or dark colours.
    pub(super) async fn window(&self, width: u32, height: u32, colours: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        for command in [
            Cdp("Emulation.setDeviceMetricsOverride", size),
            Cdp("Emulation.setEmulatedMedia", media),
        ] {
            self.client.issue_cmd(command).await.expect("chromium takes it");
        }
    }

    /// The page as a PNG.
    pub(super) async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a picture")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its driver's session, and at the latest with the driver.
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}
