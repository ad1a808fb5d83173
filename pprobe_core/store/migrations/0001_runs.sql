-- A finished probe and everything it measured. Rows are written once, in one transaction, and never updated.
-- Times are UTC. JSON is kept as text. Numbers of pairs and layers are logits unless the name says otherwise.

create table runs (
    run_id varchar primary key,
    request_key varchar not null unique,
    created_at timestamp not null,
    model varchar not null,
    model_path varchar,
    family varchar,
    revision varchar,
    weights_sha256 varchar,
    tokenizer_sha256 varchar,
    circuit varchar not null,
    circuit_sha256 varchar,
    prompts varchar not null,
    prompts_sha256 varchar,
    dtype varchar,
    device varchar,
    coupling varchar not null,
    pair_limit integer,
    seed bigint not null,
    generated boolean not null,
    n_pairs integer not null,
    n_forward_passes integer,
    seconds double,
    flip_rate double,
    ffn_skip_mean double,
    structure varchar,
    stage varchar,
    recommendation varchar,
    request varchar not null,
    summary varchar not null,
    environment varchar not null
);

create table pairs (
    run_id varchar not null,
    idx integer not null,
    pair_id varchar not null,
    split varchar not null,
    original_text varchar,
    perturbed_text varchar,
    original_prompt varchar,
    perturbed_prompt varchar,
    input_ids_original integer[],
    input_ids_perturbed integer[],
    tokens_original varchar[],
    tokens_perturbed varchar[],
    target_ids integer[],
    control_ids integer[],
    logit_diff_original double,
    logit_diff_perturbed double,
    predicted_delta double,
    constant_original double,
    constant_perturbed double,
    ffn_skip_original double,
    ffn_skip_perturbed double,
    flipped boolean,
    covered_original boolean,
    covered_perturbed boolean,
    response_original varchar,
    response_perturbed varchar,
    class_original varchar,
    class_perturbed varchar,
    note varchar
);

create table first_tokens (
    run_id varchar not null,
    pair_id varchar not null,
    condition varchar not null,
    rank integer not null,
    token_id integer not null,
    token varchar,
    probability double,
    side varchar
);

create table layer_signals (
    run_id varchar not null,
    pair_id varchar not null,
    condition varchar not null,
    layer integer not null,
    attention double,
    ffn double,
    skip double,
    ffn_skip double,
    attention_skip double,
    lens_after_attention double,
    lens_after_ffn double
);

-- One row per neuron of the model and run: no key, because a key doubles size and time and every read is a scan of one run.
create table neuron_scores (
    run_id varchar not null,
    layer integer not null,
    neuron integer not null,
    coupling float,
    importance_mean float,
    importance_rms float,
    sign_consistency float,
    coherence float,
    act_original_mean float,
    act_perturbed_mean float,
    zeroing_effect float,
    ablation_score float
);

create table token_preview (
    run_id varchar not null,
    position integer not null,
    side varchar not null,
    string varchar not null,
    ids integer[],
    pieces varchar[],
    used boolean,
    note varchar
);
