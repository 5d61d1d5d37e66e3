//! Several plans of one file as one: for several platforms, or several targets.

use oci_model::{Platform, Reference};

use super::{Action, Base, ImageRequest, Mount, Plan, Source, Stage, StageId};

/// A stage whose image is wanted, and for which platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The stage.
    pub stage: StageId,
    /// Platform of the wanted image.
    pub platform: Platform,
}

impl Plan {
    /// One plan that makes what all of `plans` make. Stages that are the same in several of them,
    /// such as those on the build platform, are in it once.
    ///
    /// The first plan's target stays [`Plan::target`]; [`Plan::targets`] names all of them in
    /// order. Titles tell the platform when there are several. `None` for no plans.
    #[must_use]
    pub fn merge(plans: Vec<Self>) -> Option<Self> {
        let mut plans = plans.into_iter();
        let mut merged = plans.next()?;
        let rest: Vec<Self> = plans.collect();
        if rest.iter().any(|plan| plan.platform != merged.platform) {
            merged.name_platforms();
        }
        let is_one_platform = rest.iter().all(|plan| plan.platform == merged.platform);
        for mut plan in rest {
            if !is_one_platform {
                plan.name_platforms();
            }
            merged.add(plan);
        }
        Some(merged)
    }

    /// Every stage whose image is wanted; the first is [`Plan::target`].
    pub fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        let first = Target { stage: self.target, platform: self.platform.clone() };
        std::iter::once(first).chain(self.more_targets.iter().cloned())
    }

    /// Says that the named context `name` is an image: what reads it reads that image, for the
    /// platform of this plan.
    pub fn bind_image_context(&mut self, name: &str, reference: &Reference) {
        let platform = self.platform.clone();
        let bind = |source: &mut Source| {
            if matches!(source, Source::NamedContext(own) if own == name) {
                let (reference, platform) = (reference.clone(), platform.clone());
                *source = Source::Image(ImageRequest { reference, platform });
            }
        };
        for stage in &mut self.stages {
            stage.for_each_source(bind);
        }
    }

    fn add(&mut self, plan: Self) {
        // Dependencies come before dependents, so their new places are known when needed.
        let mut places: Vec<StageId> = Vec::with_capacity(plan.stages.len());
        for mut stage in plan.stages {
            if let Base::Stage(parent) = &mut stage.base {
                *parent = places[parent.0];
            }
            stage.for_each_source(|source| {
                if let Source::Stage(id) = source {
                    *id = places[id.0];
                }
            });
            let same = self.stages.iter().find(|other| {
                stage.id = other.id;
                **other == stage
            });
            places.push(match same {
                Some(other) => other.id,
                None => {
                    stage.id = StageId(self.stages.len());
                    let id = stage.id;
                    self.stages.push(stage);
                    id
                }
            });
        }
        for warning in plan.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        self.unused_build_args.retain(|name| plan.unused_build_args.contains(name));
        let target = |own: StageId| places[own.0];
        let first = Target { stage: target(plan.target), platform: plan.platform };
        let more = plan
            .more_targets
            .into_iter()
            .map(|more| Target { stage: target(more.stage), platform: more.platform });
        self.more_targets.extend(std::iter::once(first).chain(more));
    }

    fn name_platforms(&mut self) {
        for stage in &mut self.stages {
            for step in &mut stage.steps {
                // `[build 2/5] RUN make` becomes `[linux/arm64 build 2/5] RUN make`.
                let title = step.title.strip_prefix('[').unwrap_or(&step.title);
                let end = if title.len() == step.title.len() { "] " } else { " " };
                step.title = format!("[{}{end}{title}", stage.platform);
            }
        }
    }
}

impl Stage {
    fn for_each_source(&mut self, mut visit: impl FnMut(&mut Source)) {
        for step in &mut self.steps {
            match &mut step.action {
                Action::Configure | Action::Workdir(_) => {}
                Action::Transfer(transfer) => visit(&mut transfer.from),
                Action::Run(run) => {
                    for mount in &mut run.mounts {
                        match mount {
                            Mount::Bind { source, .. }
                            | Mount::Cache { seed: Some(source), .. } => visit(source),
                            Mount::Cache { seed: None, .. }
                            | Mount::Tmpfs { .. }
                            | Mount::Secret { .. }
                            | Mount::Ssh { .. } => {}
                        }
                    }
                }
            }
        }
    }
}
