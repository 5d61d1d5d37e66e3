//! Dockerfile text to typed instructions with spans, to a [`Plan`] of content-addressed steps.
//!
//! This crate reads no files, knows no clock and no network, and does not know how a step runs.
//!
//! Start reading at [`Dockerfile::parse`], then [`Draft`], which turns a file and the configs of
//! its base images into the [`Plan`] an executor works through.

#![forbid(unsafe_code)]

mod directives;
mod error;
mod expand;
mod file;
mod heredoc;
mod ignore;
mod instruction;
pub mod limits;
mod lines;
mod lint;
mod mode;
mod mount;
mod parse;
mod path_pattern;
mod paths;
mod pattern;
mod plan;
mod position;
mod source_pattern;
mod suggest;
mod words;

pub use directives::{Directives, is_builtin_frontend, requested_frontend};
pub use error::{DockerfileError, ErrorKind};
pub use file::Dockerfile;
pub use ignore::{IgnoreFile, ignore_file_names};
pub use instruction::{
    ArgDeclaration, CommandLine, Device, FromClause, GitDirectory, Healthcheck, HealthcheckTiming,
    Heredoc, HeredocExpansion, HeredocIndent, Instruction, KeyValueForm, KeyValues, Linking,
    Network, OnBuild, Parents, Requirement, Run, Security, Statement, Transfer, Unpack,
};
pub use lint::{Rule, Warning};
pub use mode::{FileKind, ModeChange, ModeClause};
pub use mount::{Access, Mount, MountKind, MountTemplate, Sharing};
pub use path_pattern::{DoubleStar, PathPattern};
pub use plan::{
    Action, Base, Definition, DefinitionPart, Draft, FileSource, ImageRequest, Input, LayerEffect,
    Outline, OutlineArg, OutlineCache, OutlineMount, Owner, Plan, PlanOptions, Principal,
    RunAction, STEP_KEY_VERSION, Script, Selection, Source, Stage, StageId, Step, StepKey,
    StepLayer, StepOrigin, Target, TargetSummary, TransferAction, TransferVerb, WorkdirAction,
    assemble_config,
};
pub use position::Span;
pub use source_pattern::SourcePattern;
