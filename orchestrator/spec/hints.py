"""Suggestions for unknown keys and values: other common names, near matches, and the place of a misplaced key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.spec.kinds import INTERNAL, Kind, kind_of
from orchestrator.spec.yamltree import Place

# Names that other libraries and papers use, by ours. Upper case, hyphens and underscores make no difference.
ALIASES: dict[str, str] = {
    # keys of recipes
    "lr": "learning_rate, learning-rate, learningrate, base_lr, max_lr, peak_lr, init_lr, lr_rate, lrate, eta",
    "layer_decay": "layerwise_decay, layer_wise_decay, llrd, lr_decay, layer_lr_decay",
    "batch_size": "batch, bs, batchsize, global_batch, global_batch_size, train_batch_size, total_batch_size",
    "schedule": "scheduler, lr_schedule, lr_scheduler, sched, decay",
    "warmup": "warmup_steps, warmup_epochs, warm_up, num_warmup_steps, warmup_ratio, warmup_fraction",
    "cooldown": "cooldown_steps, cool_down, decay_steps",
    "weight_decay": "wd, weightdecay, l2, l2_reg, l2_regularization",
    "optimizer": "optim, optimiser, opt",
    "beta1": "b1, adam_beta1", "beta2": "b2, adam_beta2",
    "grad_clip": "clip, clip_grad, clip_norm, gradient_clip, gradient_clipping, max_grad_norm, grad_clip_norm, clip_grad_norm",
    "dropout": "drop, drop_rate, dropout_rate, p_dropout",
    "stochastic_depth": "drop_path, drop_path_rate, stoch_depth, stochdepth, droppath",
    "label_smoothing": "smoothing, label_smooth, ls",
    "augment": "aug, augmentation, augmentations, data_augmentation, transforms, transform",
    "flip": "hflip, horizontal_flip, random_flip",
    "randaugment_layers": "randaug_layers, ra_layers, randaug_n, num_ops",
    "randaugment_magnitude": "randaug_magnitude, ra_magnitude, randaug_m, magnitude",
    "mixup": "mixup_alpha, mix_up", "cutmix": "cutmix_alpha, cut_mix",
    "ema": "ema_decay, model_ema, ema_rate, weight_averaging",
    "precision": "dtype, amp, mixed_precision, bf16, fp16, half",
    "preset": "recipe_name, base, template",
    # keys of sections
    "data": "dataset, train_data, train_dataset, training_data, corpus",
    "datasets": "data, dataset, corpora",
    "resolution": "image_size, img_size, res, input_size, image_resolution, imgsize, image_res, crop_size, pixels",
    "image_size": "resolution, img_size, res, size, input_size, pixels",
    "sizes": "size, dataset_sizes, data_sizes, subsets, dataset_size, data_size, train_sizes, images, samples",
    "lengths": "length, epochs, steps, examples, duration, durations, num_epochs, total_epochs, schedules, budgets",
    "models": "model, architectures, architecture, archs, arch, networks, backbones, backbone",
    "objective": "objectives, loss, task, method, pretext",
    "tasks": "task, datasets, dataset, downstream, targets",
    "shots": "shot, k, num_shots, fewshot, few_shot, n_shots",
    "pretrain": "pretraining, pre_train, pretrained, train, training, upstream",
    "transfer": "finetune, fine_tune, finetuning, fine_tuning, downstream, tune",
    "probe": "linear_probe, fewshot, few_shot, linear_eval, probing",
    "seeds": "seed, random_seed, rng_seeds",
    "epochs": "num_epochs, n_epochs, epoch, max_epochs",
    "steps": "num_steps, n_steps, step, max_steps, iterations, iters, updates",
    "examples": "samples, images_seen, samples_seen, examples_seen, num_examples",
    "resources": "resource, compute, cluster, hardware, scaling_config",
    "workers": "num_workers, n_workers, world_size, num_gpus, gpus, nproc, replicas",
    "gpus_per_worker": "gpu_per_worker, use_gpu", "cpus_per_worker": "cpu_per_worker, cpus, num_cpus",
    "zero_stage": "zero, stage, deepspeed_stage",
    "micro_batch": "micro_batch_size, microbatch, per_device_batch_size, batch_per_gpu, device_batch_size",
    "max_concurrent": "concurrency, parallelism, max_parallel, max_concurrent_trials",
    "checkpoint": "checkpoints, checkpointing, ckpt, save", "every": "interval, frequency, period, save_every",
    "keep": "keep_last, max_to_keep, num_to_keep, save_total_limit",
    "budget": "limits, limit", "max_runs": "runs, max_trials", "gpu_hours": "max_gpu_hours, gpuhours",
    "wall_hours": "max_hours, wall_time, time_limit, hours", "cost": "max_cost, dollars",
    "storage": "store, output, output_dir, out_dir, save_dir, results_dir, work_dir, workdir",
    "path": "dir, folder, root, directory, uri, location",
    "tracking": "mlflow, tracker, logging, logger", "mlflow": "uri, tracking_uri, url, address",
    "notify": "notification, notifications, alerts, webhook, slack",
    "webhook": "url, address", "on": "events, event",
    "on_failure": "failure, failures, retry, retries, fault_tolerance, failure_config",
    "retries": "max_retries, max_failures, attempts, retry",
    "then": "policy, action", "failures": "errors, max_failures",
    "on_bad_sample": "bad_samples, on_error, corrupt, skip_bad",
    "name": "study, study_name, title, experiment, experiment_name, project",
    "report": "reporting", "title": "name, heading", "note": "description, comment, text",
    "imports": "import, tables, published, import_results", "claims": "claim, hypotheses, questions",
    "targets": "target, forecasts, forecast, predict",
    # keys of datasets
    "url": "path, root, dir, folder, data_dir, location, uri, address",
    "source": "downloads, download, raw, from, src", "describe": "description, known, dataset, name, preset",
    "generate": "generator, synthetic, kind, type",
    "train": "train_images, num_train, n_train, train_size, train_samples, images, size, samples, examples, num_examples",
    "val": "val_images, validation, num_val, val_size", "classes": "num_classes, n_classes, nb_classes, class_count, labels",
    "eval_split": "split, eval, test_split, val_split, evaluation_split", "licence": "license",
    "dev": "development, dev_split, use_dev",
    # keys and values of models and objectives
    "variant": "name, id, label", "family": "type, kind, arch, architecture", "model": "name, variant, arch, base",
    "width": "dim, hidden_dim, hidden_size, embed_dim, d_model, hidden, embedding_dim, channels",
    "depth": "layers, num_layers, n_layers, blocks, num_blocks", "patch": "patch_size, patchsize",
    "mlp_dim": "mlp, ffn_dim, mlp_size, d_ff, intermediate_size, feedforward_dim",
    "heads": "num_heads, n_heads, attention_heads",
    "pooling": "pool, global_pool, classifier", "stages": "layers, blocks, depths",
    "init": "weights, checkpoint, pretrained, from, load",
    "mixer": "token_mixer, attention", "finetune_resolution": "ft_resolution, finetune_res",
    "kind": "name, type, objective", "masked": "mask_ratio, masking_ratio, ratio",
    "mae": "masked_autoencoder, autoencoder, mim", "masked_patch": "mpp, masked_patches, masked_patch_prediction, beit",
    "gap": "avg, mean, average, avgpool", "cls": "token, class_token",
    "bf16": "bfloat16, bf16-mixed, mixed", "fp32": "float32, single, full, f32", "adamw": "adam", "sgd": "momentum, nesterov",
    "vit": "vision_transformer, transformer", "resnet": "bit, resnetv2", "cnn": "convnet, conv",
    "supervised": "classification, cross_entropy, labels, sup", "inception": "random_resized_crop, rrc",
    "fractals": "fractaldb, fractal", "digits": "mnist, sklearn_digits",
}  # fmt: skip
NEAR, NEAR_OTHER = 0.6, 0.8  # similarity of a misspelling to a known word, and to another name of one
ANY = "*"  # an element of a list, or a value of a mapping, in a path of keys
FLATTENED = {("pretrain", "models", ANY, "model"), ("pretrain", "objective", ANY, "objective")}  # not written in the file


def _plain(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


_MEANT: dict[str, list[str]] = {}
for _name, _others in ALIASES.items():
    for _other in _others.split(", "):
        _MEANT.setdefault(_plain(_other), []).append(_name)


def intended(word: str, known: Sequence[str]) -> str:
    """The known word that another name or a misspelling stands for, or the empty string."""
    if name := other_name(word, known) or _nearest(word, known, NEAR):
        return name
    others = {other: name for other, names in _MEANT.items() for name in names if name in known}
    return others.get(_nearest(_plain(word), list(others), NEAR_OTHER), "")


def _nearest(word: str, known: Sequence[str], cutoff: float) -> str:
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), "")


def other_name(word: str, known: Sequence[str]) -> str:
    """The known word that has `word` as another name, or the empty string."""
    same = {_plain(name): name for name in known}
    return next((same[name] for name in _names(word) if name in same), "")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`, did you mean X?`, or the empty string."""
    name = intended(word, known)
    return f", did you mean {name}?" if name else ""


def _names(word: str) -> tuple[str, ...]:
    """A word, and the words that it may be another name of, without case, hyphens and underscores."""
    return (_plain(word), *map(_plain, _MEANT.get(_plain(word), ())))


def nearest_place(word: str, place: Place, root: type[BaseModel]) -> tuple[Place, FieldInfo] | None:
    """The place nearest to `place` where a key of this name belongs, with the key; None where no section has one."""
    paths = {path: field for path, field in _paths(kind_of(root), ()) if path != place}
    exact = [path for path in paths if _plain(str(path[-1])) == _plain(word)]
    named = exact or [path for path in paths if _plain(str(path[-1])) in _names(word)]
    best = max(named, key=lambda path: (_shared(path, place[:-1]), -len(path)), default=None)
    if best is None:
        return None
    shared = _shared(best, place[:-1])
    return (*place[:shared], *(part for part in best[shared:] if part != ANY)), paths[best]


def _shared(path: Place, place: Place) -> int:
    """Parts that a path of keys and a place have in common at their start."""
    count = 0
    for part, other in zip(path, place, strict=False):
        if part != other and not (part == ANY and count):
            break
        count += 1
    return count


def _paths(kind: Kind, above: Place) -> Iterator[tuple[Place, FieldInfo]]:
    """All keys of a schema, each with its path."""
    for member in kind.members:
        if member.model:
            for name, field in member.model.model_fields.items():
                path = (*above, name)
                if path in FLATTENED:
                    yield from _paths(kind_of(field), above)
                elif field.json_schema_extra != INTERNAL:
                    yield path, field
                    yield from _paths(kind_of(field), path)
        else:
            for inner in _inner(member):
                yield from _paths(inner, (*above, ANY))


def _inner(kind: Kind) -> Iterable[Kind]:
    if kind.element:
        return (kind.element,)
    return (kind.value,) if kind.value else ()
