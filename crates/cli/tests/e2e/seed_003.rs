//! Seed 003, "Building images in a cluster": kaniko Jobs with a PVC workspace, credentials from a
//! PVC file, retries up to `backoffLimit`, and the local form.

use crate::machine::{Kubectl, Machine, PASSWORD, USER};

#[test]
fn kaniko_tutorial_works_with_the_machines_kubectl() {
    tutorial(Kubectl::Machine);
}

#[test]
fn kaniko_tutorial_works_with_debians_kubectl() {
    tutorial(Kubectl::Debian);
}

const DOCKERFILE: &str = "FROM BASE AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/var/cache/build sh build.sh
FROM BASE
COPY --from=build --chown=1000:1000 /src/hello /bin/hello
USER 1000
CMD [\"hello\"]
";

fn tutorial(kubectl: Kubectl) {
    let machine = Machine::new(kubectl);
    machine.login(&machine.registry, USER, PASSWORD);
    let base = format!("{}/base/busybox:1", machine.registry);
    machine.push_busybox(&base);

    claim_and_fill_the_workspace(&machine, &base);
    build_with_credentials_from_a_file_of_a_claim(&machine);
    run_what_was_built(&machine);
    build_without_credentials_is_retried_and_fails(&machine);
    build_locally_with_the_same_flags(&machine, &base);
}

fn claim(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {name}
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
---
"
    )
}

/// Another container puts the Dockerfile with its files, and config.json, into the claims.
fn claim_and_fill_the_workspace(machine: &Machine, base: &str) {
    let config = std::fs::read_to_string(machine.home().join(".docker/config.json"));
    let config = config.expect("the file that login wrote").replace('\n', "\n    ");
    let dockerfile = DOCKERFILE.replace("BASE", base).replace('\n', "\n    ");
    let manifest = claim("kaniko-workspace")
        + &claim("kaniko-credentials")
        + &format!(
            "apiVersion: v1
kind: ConfigMap
metadata:
  name: sources
data:
  Dockerfile: |
    {dockerfile}
  build.sh: |
    printf '#!/bin/sh\\necho SUCCESS\\n' > hello
    chmod 0755 hello
  config.json: |
    {config}
---
apiVersion: v1
kind: Secret
metadata:
  name: regcred
type: kubernetes.io/dockerconfigjson
stringData:
  .dockerconfigjson: |
    {config}
---
apiVersion: v1
kind: Pod
metadata:
  name: fill
spec:
  restartPolicy: Never
  imagePullSecrets:
    - name: regcred
  containers:
    - name: fill
      image: {base}
      command: [\"sh\", \"-ec\"]
      args:
        - |
          mkdir -p /workspace/my-build
          cp -L /sources/Dockerfile /sources/build.sh /workspace/my-build/
          cp -L /sources/config.json /credentials/config.json
      volumeMounts:
        - {{name: workspace, mountPath: /workspace}}
        - {{name: credentials, mountPath: /credentials}}
        - {{name: sources, mountPath: /sources}}
  volumes:
    - name: workspace
      persistentVolumeClaim: {{claimName: kaniko-workspace}}
    - name: credentials
      persistentVolumeClaim: {{claimName: kaniko-credentials}}
    - name: sources
      configMap: {{name: sources}}
"
        );
    machine.apply(&manifest);
    machine.wait("pod/fill", "default", "jsonpath={.status.phase}=Succeeded");
    let claims = machine.kubectl(&["get", "pvc"]).ok();
    assert_eq!(claims.matches("Bound").count(), 2, "{claims}");
}

/// The second Job of the tutorial, as printed there but for the destination.
fn build_with_credentials_from_a_file_of_a_claim(machine: &Machine) {
    machine.apply(&format!(
        "apiVersion: batch/v1
kind: Job
metadata:
  name: build-image
spec:
  template:
    spec:
      containers:
      - name: build-image
        image: gcr.io/kaniko-project/executor:latest
        args:
          - \"--context=/workspace/my-build\"
          - \"--dockerfile=/workspace/my-build/Dockerfile\"
          - \"--destination={}/team/hello:v1\"
        volumeMounts:
        - name: config-json
          mountPath: /kaniko/.docker/config.json
          subPath: config.json
        - name: workspace
          mountPath: /workspace
      volumes:
      - name: config-json
        persistentVolumeClaim:
          claimName: kaniko-credentials
      - name: workspace
        persistentVolumeClaim:
          claimName: kaniko-workspace
      restartPolicy: Never
  backoffLimit: 3
",
        machine.registry
    ));
    machine.wait("job/build-image", "default", "condition=Complete");
    let condition = machine
        .shell("kubectl get job build-image -o go-template='{{(index .status.conditions 0).type}}'")
        .ok();
    // Newer API servers put the criterion before the completion.
    assert!(["Complete", "SuccessCriteriaMet"].contains(&condition.as_str()), "{condition}");
    let log = machine.kubectl(&["logs", "job/build-image"]).ok();
    assert!(!log.is_empty(), "the builder says what it does");
}

fn run_what_was_built(machine: &Machine) {
    let tags = machine.shipway(&["tags", &format!("{}/team/hello", machine.registry)]).ok();
    assert_eq!(tags, "v1\n");
    machine.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: hello
spec:
  restartPolicy: Never
  imagePullSecrets: [{{name: regcred}}]
  containers:
    - name: hello
      image: {}/team/hello:v1
",
        machine.registry
    ));
    machine.wait("pod/hello", "default", "jsonpath={.status.phase}=Succeeded");
    assert_eq!(machine.kubectl(&["logs", "hello"]).ok(), "SUCCESS\n");
}

/// The first Job of the tutorial, as printed there but for name, destination and number of retries.
fn job_without_credentials(name: &str, destination: &str, retries: u32) -> String {
    format!(
        "apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  template:
    spec:
      containers:
      - name: build-image
        image: gcr.io/kaniko-project/executor:latest
        args:
          - \"--context=/workspace/my-build\"
          - \"--dockerfile=/workspace/my-build/Dockerfile\"
          - \"--destination={destination}\"
        volumeMounts:
        - name: workspace
          mountPath: /workspace
      volumes:
      - name: workspace
        persistentVolumeClaim:
          claimName: kaniko-workspace
      restartPolicy: Never
  backoffLimit: {retries}
"
    )
}

/// Without authentication at the registry the Job needs no credentials.
#[test]
fn first_job_of_the_tutorial_builds_for_a_registry_without_authentication() {
    let machine = Machine::with_flags(Kubectl::Machine, &["--registry-anonymous=push"]);
    machine.login(&machine.registry, USER, PASSWORD);
    let base = format!("{}/base/busybox:1", machine.registry);
    machine.push_busybox(&base);
    claim_and_fill_the_workspace(&machine, &base);
    let destination = format!("{}/team/open:v1", machine.registry);
    machine.apply(&job_without_credentials("build-image", &destination, 3));
    machine.wait("job/build-image", "default", "condition=Complete");
    let tags = machine.shipway(&["tags", &format!("{}/team/open", machine.registry)]).ok();
    assert_eq!(tags, "v1\n");
}

/// A private registry refuses the same Job each time.
fn build_without_credentials_is_retried_and_fails(machine: &Machine) {
    let destination = format!("{}/team/refused:v1", machine.registry);
    machine.apply(&job_without_credentials("build-refused", &destination, 1));
    machine.wait("job/build-refused", "default", "condition=Failed");
    let reason = machine
        .kubectl(&[
            "get",
            "job",
            "build-refused",
            "-o",
            r#"jsonpath={.status.conditions[?(@.type=="Failed")].reason} {.status.failed}"#,
        ])
        .ok();
    assert_eq!(reason, "BackoffLimitExceeded 2");
    let pods = machine.kubectl(&["get", "pods", "-l", "job-name=build-refused"]).ok();
    assert_eq!(pods.matches("Error").count(), 2, "one try and one retry\n{pods}");
}

/// `docker run … executor` of the tutorial is `shipway executor` on a machine without docker.
fn build_locally_with_the_same_flags(machine: &Machine, base: &str) {
    machine.write("workspace/Dockerfile", &DOCKERFILE.replace("BASE", base));
    machine.write(
        "workspace/build.sh",
        "printf '#!/bin/sh\\necho SUCCESS\\n' > hello\nchmod 0755 hello\n",
    );
    let workspace = machine.path("workspace").to_str().expect("UTF-8").to_owned();
    machine
        .shipway(&[
            "executor",
            &format!("--dockerfile={workspace}/Dockerfile"),
            &format!("--context={workspace}"),
            &format!("--destination={}/team/local:v1", machine.registry),
        ])
        .ok();
    let tags = machine.shipway(&["tags", &format!("{}/team/local", machine.registry)]).ok();
    assert_eq!(tags, "v1\n");
}
