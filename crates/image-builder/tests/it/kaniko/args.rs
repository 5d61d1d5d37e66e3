//! Group ARG.

use super::dockerfile;
use crate::tests;

tests![
    quotes_around_defaults_vanish_and_blanks_stay,
    quotes_around_defaults_of_several_arguments_vanish,
    quotes_around_an_argument_of_from_vanish,
    global_and_stage_arguments_may_share_a_line,
    an_empty_argument_may_stand_in_from,
    arguments_may_hold_many_lines,
    arguments_are_made_of_arguments,
    global_arguments_reach_stages_that_ask_for_them,
    platform_arguments_are_there_for_the_asking,
    stage_defaults_are_made_of_inherited_values,
    shells_keep_their_own_substitutions,
    a_stage_may_override_a_platform_argument,
    arguments_of_a_stage_are_unknown_to_its_siblings,
    the_later_of_argument_and_variable_counts,
];

fn quotes_around_defaults_vanish_and_blanks_stay() {
    dockerfile("FROM base\nARG A=\"\" B='' C=\"two  words\" D=' x '\nENV E=\"[$A][$B][$C][$D]\"\nRUN echo \"$E<$C>\"\n")
        .build()
        .prints("[][][two  words][ x ]<two  words>\n");
}

fn quotes_around_defaults_of_several_arguments_vanish() {
    dockerfile(
        "ARG G=\"global\" H='h'\nFROM base\nARG G H=\"own\" I=\"it's\"\nRUN echo \"$G $H $I\"\n",
    )
    .build()
    .prints("global own it's\n");
}

fn quotes_around_an_argument_of_from_vanish() {
    dockerfile("ARG D=\"base\"\nARG S='base'\nFROM \"${D}\" AS one\nRUN echo 1 > /x\nFROM ${S}\nCOPY --from=one /x /x\nRUN cat /x\n")
        .build()
        .prints("1\n");
}

fn global_and_stage_arguments_may_share_a_line() {
    dockerfile("ARG image=base tag=latest\nFROM ${image}:${tag}\nARG image a=1 b=2\nRUN echo $image $tag $a $b\n")
        .arg("b", "3")
        .build()
        .prints("base 1 3\n");
}

fn an_empty_argument_may_stand_in_from() {
    dockerfile("ARG PREFIX=\nARG SUFFIX\nFROM ${PREFIX}base${SUFFIX}\nARG PREFIX\nRUN echo \"[${PREFIX-unset}]\"\n")
        .build()
        .prints("[]\n");
}

fn arguments_may_hold_many_lines() {
    dockerfile("FROM base\nARG KEY\nRUN echo \"$KEY\" > /key\n")
        .arg("KEY", "-----BEGIN-----\nline 'one'\n\tline \"two\"\n-----END-----")
        .build()
        .holds("/key", "-----BEGIN-----\nline 'one'\n\tline \"two\"\n-----END-----\n");
}

fn arguments_are_made_of_arguments() {
    dockerfile("ARG one=b\nARG two=${one}ase\nFROM ${two}\nARG x=1\nARG y=${x}2\nARG z=${y}3\nRUN echo $z\n")
        .arg("y", "7")
        .build()
        .prints("73\n");
}

fn global_arguments_reach_stages_that_ask_for_them() {
    dockerfile("ARG V=1\nFROM base AS one\nARG V\nRUN echo \"one $V\" > /x\nFROM base AS two\nCOPY --from=one /x /x\nRUN cat /x && echo \"two [$V]\"\n")
        .build()
        .prints("one 1\ntwo []\n");
}

fn platform_arguments_are_there_for_the_asking() {
    let host = oci_model::Platform::host();
    let text = format!("linux/{0} linux {0} default\n", host.architecture);
    dockerfile("FROM --platform=$BUILDPLATFORM base\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETSTAGE\nRUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETSTAGE\n")
        .build()
        .prints(&text);
    dockerfile("FROM base\nRUN echo \"[$TARGETARCH][$BUILDPLATFORM]\"\n").build().prints("[][]\n");
}

fn stage_defaults_are_made_of_inherited_values() {
    dockerfile("ARG NUMBER=7\nFROM base\nARG NUMBER\nARG NAME=v${NUMBER:-none}\nARG LONG=\"$NAME.$NUMBER\"\nRUN echo $LONG\n")
        .build()
        .prints("v7.7\n");
}

fn shells_keep_their_own_substitutions() {
    dockerfile("FROM base\nENV s=1.2.3 dollar='$s'\nRUN t=x.y; echo \"${t%.y} ${s%%.*} ${s##*.} $dollar $(echo $((1 + 1)))\"\n")
        .build()
        .prints("x 1 3 $s 2\n");
}

fn a_stage_may_override_a_platform_argument() {
    dockerfile("FROM base AS one\nARG TARGETARCH=mine\nRUN echo $TARGETARCH > /x\nFROM base\nARG TARGETARCH\nCOPY --from=one /x /x\nRUN cat /x; echo $TARGETARCH\n")
        .arg("TARGETARCH", "given")
        .build()
        .prints("given\ngiven\n");
}

fn arguments_of_a_stage_are_unknown_to_its_siblings() {
    dockerfile("FROM base AS parent\nARG P=p\nFROM parent AS one\nARG O=o\nRUN echo $P $O > /x\nFROM parent AS two\nCOPY --from=one /x /x\nRUN cat /x; echo \"$P [$O]\"\n")
        .build()
        .prints("p o\np []\n");
}

fn the_later_of_argument_and_variable_counts() {
    dockerfile("FROM base AS one\nENV A=env-one B=env-one\nFROM one\nARG A=arg\nRUN echo $A $B\nENV A=env\nRUN echo $A\nARG B\nRUN echo $B\n")
        .arg("B", "given")
        .build()
        .prints("arg env-one\nenv\ngiven\n");
}
