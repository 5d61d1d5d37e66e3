//! Several platforms and targets in one plan.

use super::*;

const CROSS: &str = "\
FROM --platform=$BUILDPLATFORM tools AS build
COPY src /src
FROM build AS cross
ARG TARGETARCH
RUN make $TARGETARCH
FROM base
COPY --from=build /src /src
COPY --from=cross /out /out
RUN strip /out
";

fn for_platform(text: &str, architecture: &str) -> Plan {
    let mut build = build(text);
    build.options.target_platform = Platform::linux(architecture);
    build.plan()
}

fn merged(text: &str) -> Plan {
    let plans = ["amd64", "arm64"].map(|architecture| for_platform(text, architecture));
    Plan::merge(plans.into()).expect("there are plans")
}

#[test]
fn stages_on_the_build_platform_are_there_once() {
    let plan = merged(CROSS);
    let names: Vec<_> =
        plan.stages.iter().map(|s| (s.name.as_deref(), s.platform.to_string())).collect();
    let (amd, arm) = ("linux/amd64".to_owned(), "linux/arm64".to_owned());
    assert_eq!(
        names,
        [
            (Some("build"), amd.clone()),
            (Some("cross"), amd.clone()),
            (None, amd.clone()),
            // Its RUN differs: TARGETARCH is another.
            (Some("cross"), amd.clone()),
            (None, arm.clone()),
        ]
    );
    let targets: Vec<_> =
        plan.targets().map(|t| (t.stage.index(), t.platform.to_string())).collect();
    assert_eq!(targets, [(2, amd), (4, arm)]);
    for (index, stage) in plan.stages.iter().enumerate() {
        assert_eq!(stage.id.index(), index);
    }
}

#[test]
fn references_between_stages_follow_them() {
    let plan = merged(CROSS);
    let sources: Vec<_> = plan.stages[4].steps.iter().flat_map(Step::inputs).collect();
    let stage = |index: usize| Source::Stage(StageId(index));
    assert_eq!(*sources[0].source, stage(0));
    assert_eq!(*sources[1].source, stage(3));
    assert_eq!(plan.stages[3].base, Base::Stage(StageId(0)));
}

#[test]
fn titles_tell_the_platform_when_there_are_several() {
    let plan = merged("FROM base\nRUN a\nENV X=y\n");
    let titles: Vec<_> = plan.stages[1].steps.iter().map(|step| step.title.as_str()).collect();
    assert_eq!(titles, ["[linux/arm64 2/2] RUN a", "[linux/arm64] ENV X=y"]);
    let alone = Plan::merge(vec![for_platform("FROM base\nRUN a\n", "amd64")]).expect("one");
    assert_eq!(alone.stages[0].steps[0].title, "[2/2] RUN a");
}

#[test]
fn several_targets_share_what_they_have_in_common() {
    let text = "FROM base AS a\nRUN a\nFROM a AS b\nRUN b\nFROM a AS c\nRUN c\n";
    let plans = ["b", "c", "a"].map(|target| build(text).target(target).plan());
    let plan = Plan::merge(plans.into()).expect("there are plans");
    assert_eq!(plan.stages.len(), 3);
    assert_eq!(plan.targets().map(|t| t.stage.index()).collect::<Vec<_>>(), [1, 2, 0]);
}

#[test]
fn an_image_given_as_context_is_read_for_the_platform_of_each_plan() {
    let text = "FROM scratch\nCOPY --from=ctx /a /\n";
    let reference: Reference = "example.com/ctx:1".parse().expect("a name");
    let plans = ["amd64", "arm64"].map(|architecture| {
        let mut build = build(text).context("ctx");
        build.options.target_platform = Platform::linux(architecture);
        let mut plan = build.plan();
        plan.bind_image_context("ctx", &reference);
        plan
    });
    let plan = Plan::merge(plans.into()).expect("there are plans");
    let wanted: Vec<_> = plan.extra_images().iter().map(|i| i.platform.to_string()).collect();
    assert_eq!(wanted, ["linux/amd64", "linux/arm64"]);
}
