//! [secrets/ssh]: secrets as files and variables.

use image_builder::{SecretBytes, SecretSource};

use super::{Case, case};
use crate::tests;

tests![
    a_secret_file_has_target_mode_and_owner,
    a_required_secret_must_be_there,
    a_secret_can_be_a_variable,
    a_secret_can_be_a_variable_and_a_file,
    no_secret_reaches_the_image,
];

fn with_secret(text: &str) -> Case {
    case(text).with(|_, request| {
        let value = SecretSource::Value(SecretBytes::new("pw"));
        request.secrets.insert("mysecret".into(), value);
    })
}

/// BuildKit SecretFileParams.
fn a_secret_file_has_target_mode_and_owner() {
    let text = "FROM base\nRUN --mount=type=secret,required=false,mode=741,uid=100,gid=102,target=/mysecret \
                [ \"$(stat -c '%u %g %f' /mysecret)\" = \"100 102 81e1\" ] && cat /mysecret\n\
                RUN --mount=type=secret,id=mysecret stat -c %u:%g:%a /run/secrets/mysecret\n\
                WORKDIR /w\nRUN --mount=type=secret,id=mysecret,target=rel/s cat /w/rel/s\n\
                RUN --mount=type=secret,target=/a/mysecret [ ! -w /a/mysecret ] || ! echo x > /a/mysecret\n";
    let printed = with_secret(text).printed();
    assert!(printed.starts_with("pw0:0:400\npw"), "{printed}");
}

/// BuildKit SecretRequiredWithoutValue.
fn a_required_secret_must_be_there() {
    for flag in ["required", "required=true", "required=1"] {
        let text = format!("FROM base\nRUN --mount=type=secret,{flag},id=absent foo\n");
        let error = case(&text).error();
        assert!(error.contains("secret absent: not found"), "{error}");
    }
    let text = "FROM base\nRUN --mount=type=secret,id=absent [ ! -e /run/secrets/absent ]\n";
    case(text).printed();
}

/// BuildKit SecretAsEnviron.
fn a_secret_can_be_a_variable() {
    let text = "FROM base\nRUN --mount=type=secret,id=mysecret,env=SECRET_ENV \
                echo $SECRET_ENV; [ ! -e /run/secrets/mysecret ]\nRUN echo \"[$SECRET_ENV]\"\n";
    assert_eq!(with_secret(text).printed(), "pw\n[]\n");
}

/// BuildKit SecretAsEnvironWithFileMount.
fn a_secret_can_be_a_variable_and_a_file() {
    let text = "FROM base\nRUN --mount=type=secret,id=mysecret,target=/run/secrets/secret,env=SECRET_ENV \
                echo $SECRET_ENV && cat /run/secrets/secret\n";
    assert_eq!(with_secret(text).printed(), "pw\npw");
}

fn no_secret_reaches_the_image() {
    let text = "FROM base\nRUN --mount=type=secret,id=mysecret --mount=type=secret,id=mysecret,env=S \
                cat /run/secrets/mysecret > /dev/null; echo ok > /ok\n";
    let built = with_secret(text);
    assert_eq!(built.tree_below("run/"), ["run/ 755 0:0"]);
    let config = built.build(|_, outcome| serde_json::to_string(&outcome.image).expect("JSON"));
    assert!(!config.contains("pw"), "{config}");
}
