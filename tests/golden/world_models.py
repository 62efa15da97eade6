"""Small models of every kind: config.json in the form most files on the hub have, and seeded random
weights under the names that transformers gives them."""
import math

import torch
from transformers import BertConfig, CONFIG_MAPPING

from models import FactChecker, HubChecker, family_of


def decoder(name, kind, vocabulary, **other):
    return {"architectures": [name], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 16, "initializer_range": 0.02,
            "intermediate_size": 20, "max_position_embeddings": 48, "model_type": kind,
            "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False,
            "torch_dtype": "float32", "use_cache": True, "vocab_size": vocabulary, **other}


def llama(vocabulary=319, **other):
    return decoder("LlamaForCausalLM", "llama", vocabulary, **{
        "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_scaling": None,
        **other})


def llama3():
    """Wavelengths 6, 26 and more: kept, interpolated, and scaled by the whole factor."""
    scaling = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
               "original_max_position_embeddings": 32, "rope_type": "llama3"}
    return llama(99, hidden_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=12,
                 rope_theta=5000.0, rope_scaling=scaling, tie_word_embeddings=True,
                 bos_token_id=96, eos_token_id=[97, 98])


def mistral():
    """Heads x head_dim is not the hidden size."""
    return decoder("MistralForCausalLM", "mistral", 319, head_dim=6, num_attention_heads=2,
                   num_key_value_heads=1, sliding_window=6)


def qwen2():
    """A window that is not used."""
    return decoder("Qwen2ForCausalLM", "qwen2", 104, rms_norm_eps=1e-06, rope_theta=1000000.0,
                   sliding_window=4, max_window_layers=2, use_sliding_window=False,
                   tie_word_embeddings=True, bos_token_id=96, eos_token_id=98)


def qwen2_untied():
    """In the form transformers 5 writes."""
    config = decoder("Qwen2ForCausalLM", "qwen2", 48, hidden_size=8, num_attention_heads=2,
                     num_key_value_heads=1, rms_norm_eps=1e-06, sliding_window=None,
                     max_window_layers=28, use_sliding_window=False,
                     layer_types=["full_attention"] * 2, dtype="float32",
                     rope_parameters={"rope_theta": 1000000.0, "rope_type": "default"})
    return {k: v for k, v in config.items() if k not in ("rope_theta", "torch_dtype")}


def qwen3():
    """Norms of each head of queries and keys, far from 1; heads x head_dim is not the hidden size."""
    return decoder("Qwen3ForCausalLM", "qwen3", 104, attention_bias=False, head_dim=6, rms_norm_eps=1e-06,
                   rope_theta=1000000.0, sliding_window=None, max_window_layers=2,
                   use_sliding_window=False, bos_token_id=96, eos_token_id=98)


def smollm3():
    """Tied; a block that is not rotated, which has a window."""
    return decoder("SmolLM3ForCausalLM", "smollm3", 48, attention_bias=False, mlp_bias=False,
                   hidden_size=12, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3,
                   no_rope_layer_interval=4, no_rope_layers=[1, 0, 1], pad_token_id=0, rope_scaling=None,
                   rope_theta=5000000.0, sliding_window=5, tie_word_embeddings=True, use_sliding_window=True)


def olmo2():
    """Norms of outputs alone, and of all heads at once, far from 1."""
    return decoder("Olmo2ForCausalLM", "olmo2", 104, attention_bias=False, rms_norm_eps=1e-06,
                   rope_theta=500000.0, bos_token_id=96, eos_token_id=98)


def olmo3():
    """The same with windows, in the form transformers 5 writes: full attention is rotated more slowly."""
    stretched = {"attention_factor": 1.2, "beta_fast": 2.0, "beta_slow": 1.0, "factor": 4.0,
                 "original_max_position_embeddings": 12, "rope_theta": 50.0, "rope_type": "yarn"}
    config = decoder("Olmo3ForCausalLM", "olmo3", 48, attention_bias=False, rms_norm_eps=1e-06,
                     hidden_size=12, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3,
                     layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                     sliding_window=5, dtype="float32", rope_parameters={
                         "full_attention": stretched,
                         "sliding_attention": {"rope_theta": 50.0, "rope_type": "default"}})
    return {k: v for k, v in config.items() if k not in ("rope_theta", "torch_dtype")}


def phi3():
    """Fused projections; 6 of 8 channels of a head are rotated, with LongRoPE's factors for short texts;
    a window of 7."""
    scaling = {"type": "longrope", "short_factor": [1.0, 1.3, 2.1], "long_factor": [1.0, 3.0, 9.0]}
    return decoder("Phi3ForCausalLM", "phi3", 104, hidden_size=32, intermediate_size=18,
                   max_position_embeddings=192, original_max_position_embeddings=48,
                   partial_rotary_factor=0.75, rope_theta=5000.0, rope_scaling=scaling, sliding_window=7,
                   resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=96, eos_token_id=98, pad_token_id=98)


def yarn(**other):
    """Bounds within the channels; cosines and sines are multiplied with a factor."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12, "beta_fast": 2.0,
               **other}
    return llama(48, hidden_size=24, num_attention_heads=2, num_key_value_heads=1, head_dim=12,
                 rope_theta=50.0, rope_scaling=scaling)


def gemma_like(name, kind, vocabulary, **other):
    """Tied, and in the form transformers 4 wrote; heads x head_dim is not the hidden size."""
    config = decoder(name, kind, vocabulary, attention_bias=False, head_dim=6, rms_norm_eps=1e-06,
                     bos_token_id=2, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True, **other)
    return {k: v for k, v in config.items() if kind == "gemma" or k != "hidden_act"}


def gemma():
    """Its activation by the name it had first."""
    return gemma_like("GemmaForCausalLM", "gemma", 48, hidden_act="gelu", hidden_activation=None,
                      num_attention_heads=2, num_key_value_heads=1, hidden_size=8)


def gemma2():
    """Scores and logits that reach their caps."""
    return gemma_like("Gemma2ForCausalLM", "gemma2", 98, attn_logit_softcapping=1.5,
                      final_logit_softcapping=4.0, hidden_activation="gelu_pytorch_tanh",
                      query_pre_attn_scalar=5, sliding_window=6)


def gemma3():
    """A block with a window and one without, which rotates otherwise."""
    return gemma_like("Gemma3ForCausalLM", "gemma3_text", 98, hidden_activation="gelu_pytorch_tanh",
                      query_pre_attn_scalar=7, rope_local_base_freq=100.0, sliding_window=6,
                      sliding_window_pattern=2, hidden_size=12, num_attention_heads=4,
                      rope_scaling={"factor": 8.0, "rope_type": "linear"})


def gemma3_resaved():
    """In the form transformers 5 writes."""
    config = gemma_like("Gemma3ForCausalLM", "gemma3_text", 48, hidden_activation="gelu_pytorch_tanh",
                        _sliding_window_pattern=6, attn_logit_softcapping=None, dtype="float32",
                        final_logit_softcapping=None, hidden_size=8, query_pre_attn_scalar=7,
                        layer_types=["full_attention", "sliding_attention", "full_attention"],
                        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
                        sliding_window=5, use_bidirectional_attention=False, rope_parameters={
                            "full_attention": {"factor": 8.0, "rope_theta": 1000000.0,
                                               "rope_type": "linear"},
                            "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"}})
    return {k: v for k, v in config.items() if k not in ("rope_theta", "torch_dtype")}


VISION = {"hidden_size": 8, "image_size": 4, "intermediate_size": 8, "num_attention_heads": 2,
          "num_hidden_layers": 1, "patch_size": 2}


def gemma3_images():
    """Beside a part that sees images, as on the hub: of the text model little is said (it has 8 heads, 4 of
    keys, every sixth block without a window)."""
    text = {"head_dim": 6, "hidden_size": 8, "intermediate_size": 12, "model_type": "gemma3_text",
            "num_hidden_layers": 6, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 5, "vocab_size": 48}
    return {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 44,
            "eoi_token_index": 45, "eos_token_id": [1, 40], "image_token_index": 46,
            "initializer_range": 0.02, "mm_tokens_per_image": 4, "model_type": "gemma3",
            "text_config": text, "torch_dtype": "float32",
            "vision_config": {**VISION, "model_type": "siglip_vision_model"}}


def mistral3_images():
    """Likewise, with a head of its own."""
    text = decoder("MistralForCausalLM", "mistral", 48, head_dim=6, num_attention_heads=2,
                   num_key_value_heads=1, hidden_size=8, rope_theta=1000000000.0, sliding_window=None)
    text = {k: v for k, v in text.items() if k not in ("architectures", "tie_word_embeddings", "torch_dtype")}
    return {"architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10,
            "model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
            "spatial_merge_size": 2, "text_config": text, "tie_word_embeddings": False,
            "torch_dtype": "float32", "vision_feature_layer": -1,
            "vision_config": {**VISION, "head_dim": 4, "hidden_act": "gelu", "model_type": "pixtral"}}


def gptj():
    return {"activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0,
            "bos_token_id": 96, "embd_pdrop": 0.0, "eos_token_id": 96, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 16, "n_head": 2,
            "n_inner": 24, "n_layer": 2, "n_positions": 48, "resid_pdrop": 0.0, "rotary": True,
            "rotary_dim": 4, "scale_attn_weights": True, "tie_word_embeddings": False,
            "torch_dtype": "float32", "use_cache": True, "vocab_size": 104}


def t5():
    """v1.1; heads x d_kv is not d_model."""
    return {"architectures": ["T5ForConditionalGeneration"], "d_ff": 18, "d_kv": 5, "d_model": 14,
            "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
            "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True,
            "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 2, "num_heads": 2,
            "num_layers": 2, "output_past": True, "pad_token_id": 0,
            "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
            "torch_dtype": "float32", "use_cache": True, "vocab_size": 96}


def t5_original():
    """As the first files have it: no word of relu, tied embeddings, decoder layers, the distance.
    Weights: with_copies."""
    return {"architectures": ["T5ForConditionalGeneration"], "d_ff": 18, "d_kv": 6, "d_model": 12,
            "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
            "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
            "model_type": "t5", "n_positions": 512, "num_heads": 2, "num_layers": 2,
            "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 8,
            "use_cache": True, "vocab_size": 96}


def bert(vocabulary=104, architecture="AutoModelForFEVER", **other):
    return {"architectures": [architecture], "attention_probs_dropout_prob": 0.1,
            "classifier_dropout": None, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
            "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 24,
            "layer_norm_eps": 1e-12, "max_position_embeddings": 48, "model_type": "bert",
            "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0,
            "position_embedding_type": "absolute", "torch_dtype": "float32", "type_vocab_size": 2,
            "vocab_size": vocabulary, **other}


def hub_bert(labels):
    names = {1: {"0": "LABEL_0"}, 2: {"0": "REFUTES", "1": "SUPPORTS"}}[labels]
    return bert(48, "BertForSequenceClassification", hidden_size=8, intermediate_size=12,
                max_position_embeddings=33, id2label=names,
                label2id={name: int(k) for k, name in names.items()})


CONFIGS = {"bert": bert, "gptj": gptj, "t5": t5, "t5-original": t5_original, "llama": llama,
           "llama3": llama3, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3, "phi3": phi3,
           "gemma2": gemma2, "gemma3": gemma3, "olmo2": olmo2}


def empty_model(config):
    architecture = config["architectures"][0]
    if architecture == "AutoModelForFEVER":
        return FactChecker(BertConfig(**config))
    made = CONFIG_MAPPING[config["model_type"]](**config)
    if architecture == "BertForSequenceClassification":
        return HubChecker(made)
    return family_of(config).from_config(made)


def spread(name, shape, tied, base=0):
    """Mean and deviation; gains of norms are stored as what they are more than base. Biases and norms are as far from 0 and 1 as trained ones, so that one that is
    left out shows; logits are far enough apart to tell, and with tied embeddings a token does not
    merely predict itself."""
    if len(shape) == 1:
        norm = name.endswith("weight")
        return (1.1 - base, 0.25) if norm else (0.0, 0.2)
    if "relative_attention_bias" in name or "_embeddings" in name:
        return 0.0, 0.5
    if any(part in name for part in ("embed_tokens", "wte", "shared")):
        return 0.0, 0.3 if tied else 1.0
    if "lm_head" in name or "classifier" in name:
        return 0.0, 2 / math.sqrt(shape[1])
    return 0.0, 1 / math.sqrt(shape[1])


def make_weights(config, seed):
    """The checkpoint's tensors, (d_out, d_in) as it has them."""
    rng = torch.Generator().manual_seed(seed)
    tied = config.get("tie_word_embeddings", True)
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    copies += ["lm_head.weight"] if tied else []
    base = 1 if config["model_type"].startswith("gemma") else 0
    out = {}
    for name, value in sorted(empty_model(config).state_dict().items()):
        if name not in copies:
            mean, deviation = spread(name, value.shape, tied, base)
            out[name] = mean + deviation * torch.randn(value.shape, generator=rng)
    return out


def with_copies(weights):
    """T5 as in its first files: what is tied is stored again, and one tensor nobody reads."""
    stored, bias = dict(weights), "decoder.block.0.layer.{}.relative_attention_bias.weight"
    for stack in ("encoder", "decoder"):
        stored[f"{stack}.embed_tokens.weight"] = weights["shared.weight"]
    stored[bias.format("1.EncDecAttention")] = weights[bias.format("0.SelfAttention")].flip(0)
    return stored
