//! ECR and STS as somebody else plays them: moto (Apache-2.0, PyPI).

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::cloud_fake::{CANARY, Clouds, Reply, request};
use crate::cloud_flows::{ECR, aws_keys};
use crate::python;

struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    fn start() -> Self {
        // The same that the registry's tests install.
        let python = python::environment("moto", "moto.server", &["moto[server]"]);
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python of the environment");
        let mut moto = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(matches!(moto.child.try_wait(), Ok(None)), "moto has ended");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        moto
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ecr_and_sts_of_moto_give_credentials_that_have_ended_and_are_used_once() {
    // cloud-credentials.md 2.5 and 14.2, row 14: moto's tokens end in 2015.
    let moto = Moto::start();
    let nobody = Clouds::start(|_| Reply::new(404, ""));
    let pod = nobody.write("token", &format!("{CANARY}-jwt"));
    let with_keys = aws_keys().to_vec();
    let with_pod = vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", pod.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pull"),
    ];
    for mut variables in [with_keys, with_pod] {
        variables.push(("AWS_ENDPOINT_URL", &moto.endpoint));
        let input = request("v1", &format!("{ECR}/app"), "");
        let answer = nobody.shipway(&["credential-provider", "ecr"], &variables, &input).ok();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["auth"][ECR]["username"], "AWS");
        let password = answer["auth"][ECR]["password"].as_str().expect("a password");
        assert!(password.ends_with("-auth-token"), "{password}");
        assert_eq!(answer["cacheDuration"], "0s");
    }
    assert_eq!(nobody.received().len(), 0);
}
