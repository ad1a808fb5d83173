-- Interventions on the model of a run. A sweep belongs to one run and is deleted with it.
-- Points and answers are committed as they are made; the row in `sweeps` appears when the sweep is complete.

alter table jobs add column sweep_id varchar;

create table sweeps (
    sweep_id varchar primary key,
    request_key varchar not null unique,
    run_id varchar not null,
    created_at timestamp not null,
    kind varchar not null,
    ranking varchar,
    condition varchar not null,
    position varchar not null,
    stage varchar not null,
    n_full_passes bigint not null,
    n_last_token_passes bigint not null,
    seconds double not null,
    request varchar not null,
    summary varchar not null
);

-- One row per planned point and split. Means, intervals and deltas are logits; null where the model broke.
create table sweep_points (
    sweep_id varchar not null,
    point_id varchar not null,
    "group" varchar not null,
    kind varchar not null,
    variant varchar not null,
    arm varchar not null,
    draw integer,
    n_neurons integer,
    layer integer,
    layers integer[],
    strength double,
    factor double,
    split varchar not null,
    n_prompts integer not null,
    logit_diff_mean double,
    low double,
    high double,
    delta_mean double,
    delta_low double,
    delta_high double,
    n_broken integer not null,
    neurons varchar[],
    pair_ids varchar[],
    logit_diffs double[],
    deltas double[],
    primary key (sweep_id, point_id)
);

-- One row per generated answer; key is the planned point's, or 'baseline' for the unedited model.
create table sweep_responses (
    sweep_id varchar not null,
    key varchar not null,
    pair_id varchar not null,
    seed bigint not null,
    split varchar not null,
    text varchar not null,
    class_name varchar not null,
    finish varchar not null,
    rules_version integer not null,
    primary key (sweep_id, key, pair_id, seed)
);

-- Forward passes spent by the attempts at a sweep, so that an interrupted one is still counted honestly.
create table sweep_passes (
    sweep_id varchar not null,
    n_full_passes bigint not null,
    n_last_token_passes bigint not null,
    seconds double not null
);

-- What a person says the class of an answer is, beside what the rules said.
create table labels (
    sweep_id varchar not null,
    key varchar not null,
    pair_id varchar not null,
    seed bigint not null,
    class_name varchar not null,
    labelled_at timestamp not null,
    primary key (sweep_id, key, pair_id, seed)
);

-- Each neuron's own effect when it alone is switched off: mean over the run's selecting prompts of F(edited) - F.
create table measured_effects (
    run_id varchar not null,
    condition varchar not null,
    position varchar not null,
    layer integer not null,
    neuron integer not null,
    effect double,
    n_prompts integer not null
);
create table measured_passes (
    run_id varchar not null,
    condition varchar not null,
    position varchar not null,
    n_full_passes bigint not null,
    n_last_token_passes bigint not null,
    seconds double not null
);
