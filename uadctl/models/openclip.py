"""Anomaly detectors that look through OpenCLIP.

Jeong, Zou, Kim, Zhang, Ravichandran, Dabeer, "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation",
CVPR 2023, and what is left of it with words alone or with reference images alone.

All three take images as they come: sides that are no multiple of the network's patches are brought to the nearest one,
and its positions are interpolated. A large image therefore costs with the square of its area; a run's [preprocess]
makes it small before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from uadctl import heap
from uadctl.errors import ParamError, Problem
from uadctl.models import base
from uadctl.models.frozen_clip import Embedder, FrozenCLIP, WindowEmbedder, wrong_clip
from uadctl.models.patches import Aggregation, aggregate_patch_scores, enlarge, reshape_patch_scores
from uadctl.models.prompts import Mode, mean_direction, prompt_ensemble, prompt_scores
from uadctl.models.references import References, Seen
from uadctl.models.windows import SIDES, harmonic_mean, spread
from uadctl.progress import Progress
from uadctl.records import Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.features.openclip_embedder import View

# CLIP's training ends at logits that are 100 times the cosine (Radford et al., ICML 2021, section 2.5), and begins at
# 1 / 0.07 times it, which is what WinCLIP's published results are reproduced with.
_TEMPERATURE = 0.01
_WINCLIP_TEMPERATURE = 0.07
# Pixels: the smoothing that memory banks of patches commonly have, and WinCLIP has not.
_SIGMA, _WINCLIP_SIGMA = 4.0, 0.0


class PromptScore(base.ThroughNetwork):
    """How much more an image's parts look like a flawed object's description than like a flawless one's: no training.

    The descriptions are WinCLIP's compositional prompt ensemble, averaged (`uadctl.models.prompts`). Each patch token
    of the last block, after the last layer norm and the projection, is compared with both; its score is `mode`, the
    map is those scores, and the image's score is their `aggregation`. With `windows`, it is WinCLIP without reference
    images: the score is the probability that the whole image (its class token) is of a flawed object, and the map the
    harmonic mean of that number and of the probabilities of the windows of 2x2 and 3x3 patches around each patch. CLIP
    never learned to compare patch tokens with texts, which is why windows find more, for about ten times the work.

    model_name: a model of open_clip with a vision transformer of its own, such as "ViT-B-16", "ViT-B-16-plus-240".
    pretrained: the name of weights that open_clip publishes, true for the model's usual ones, a checkpoint file (in a
        spec better named by `weights`), or false: random weights, for trying the machinery only. The default stands for
        the usual ones where a model has none of that name.
    weights: a checkpoint file to use in place of the published weights.
    class_name: what is on the images, in English, such as "metal nut". In a run on a data set whose categories say it,
        the category ("metal_nut" without the line) takes the default's place.
    mode: a patch's score: "diff", the difference of the cosines with the two descriptions; "softmax", the probability
        of the flawed one if the cosines divided by `temperature` are logits.
    temperature: of the softmax; none given: 0.01, what CLIP's training ends at (a logit scale of 100), or with
        `windows` 0.07, WinCLIP's.
    windows: compare windows and the whole image as WinCLIP does, in place of patch tokens; for mode "softmax". What is
        not given of `temperature` and `sigma` is WinCLIP's then.
    normal_text_features: (D,) or (n, D) text embeddings that describe a flawless object, in place of the ensemble's.
    anomaly_text_features: the same of a flawed one; both or neither.
    embedder: what sees in place of open_clip: an object with embed(image) -> (patches (P, D), (h, w), (H, W)), and for
        windows embed_windows(image, sides); needs both text features.
    aggregation: the image's score out of the patches': "topk_mean", "max" or "mean".
    topk: the share of the highest patch scores that "topk_mean" takes, in (0, 1].
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the image given; 0: none. None given:
        4, or with `windows` 0, as in WinCLIP.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the training images' scores. Only
        `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of random weights.
    batch_size: images that pass through the network together; "auto" is 16.
    precision: number format of the image tower: "fp32", "bf16", "fp16", or "auto", the fastest the device is made for.

    Training images set nothing but the threshold. None of them is remembered, so what the model says of a training
    image is what a model without it would say: every score is out of sample, and calibrates honestly.
    Learned: `text_features_` (2, D), the flawless object's first; `threshold_` (None with `threshold=False`).
    """

    offers_left_out = True
    network: FrozenCLIP

    def __init__(
        self,
        *,
        model_name: str = "ViT-B-16",
        pretrained: str | bool = "laion2b_s34b_b88k",
        weights: str | None = None,
        class_name: str = "object",
        mode: Literal["diff", "softmax"] = "diff",
        temperature: float | None = None,
        windows: bool = False,
        normal_text_features: NDArray[np.float32] | None = None,
        anomaly_text_features: NDArray[np.float32] | None = None,
        embedder: Embedder | None = None,
        aggregation: Literal["topk_mean", "max", "mean"] = "topk_mean",
        topk: float = 0.01,
        sigma: float | None = None,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
    ) -> None:
        given, wrong = _given_words(normal_text_features, anomaly_text_features, embedder)
        wrong += wrong_clip(pretrained=pretrained, batch_size=batch_size, embedder=embedder)
        wrong += _wrong_mode(mode, temperature, windows=windows, aggregation=aggregation, topk=topk)
        if temperature is None:
            temperature = _WINCLIP_TEMPERATURE if windows else _TEMPERATURE
        if sigma is None:
            sigma = _WINCLIP_SIGMA if windows else _SIGMA
        wrong += _wrong_words(class_name, temperature)
        wrong += _wrong_scores(aggregation=aggregation, topk=topk, sigma=sigma, contamination=contamination)
        if windows:
            wrong += _wrong_window_embedder(embedder)
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.network = FrozenCLIP(
            name="vision_openclip_promptscore",
            model_name=model_name,
            pretrained=pretrained,
            weights=weights,
            device=device,
            seed=seed,
            precision=precision,
            batch_size=batch_size,
            embedder=embedder,
        )
        self.class_name = class_name
        self.mode: Mode = mode
        self.temperature = temperature
        self.windows = windows
        self.aggregation: Aggregation = aggregation
        self.topk = topk
        self.sigma = sigma
        self.contamination = contamination
        self._words = given
        self.text_features_: NDArray[np.float32] | None = None
        self.threshold_: float | None = None

    @property
    def is_fitted(self) -> bool:
        return self.text_features_ is not None

    def doubts(self) -> list[str]:
        """What makes the scores less than they seem: random weights, and a file that is not read for their sake."""
        return [*super().doubts(), *self.network.doubts()]

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        Raises BackendMissing, WeightsError, SpecError for what open_clip or this machine has not.
        """
        self.network.prepare(download=download, words=self._words is None)

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Read the descriptions; normal images only set `threshold_`.

        left_out: receives each training image's prediction, which does not depend on it having been given.
        threshold: False leaves `threshold_` unset, and saves looking at the images if nobody else asks for it.
        Raises ValueError without images, DataError naming a broken one, BackendMissing, WeightsError.
        """

        self.text_features_ = self.threshold_ = None
        words = self._words = _words(self.network, self._words, self.class_name)
        scores: list[float] = []
        count = 0
        asked = threshold or left_out is not None

        def look(batch: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
            return self._score(batch, words) if asked else []

        for batch, predictions in base.looked_at(self.network.batches(images), look, of=self, progress=progress):
            count += len(batch)
            for prediction in predictions:
                scores.append(prediction.score)
                if left_out is not None:
                    left_out(prediction)
        if not count:
            raise ValueError("PromptScore needs at least one training image, found none")
        self.text_features_ = words
        if threshold:
            self.threshold_ = self.threshold_of(scores)
        return self

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous. RuntimeError before `fit`."""
        self.require_fitted()
        return self._score(images, self.text_features_)

    def _score(self, images: Sequence[NDArray[np.uint8]], words: NDArray[np.float32] | None) -> list[Prediction]:
        if words is None:
            raise RuntimeError("PromptScore is not fitted; call fit(images) first")
        predictions = []
        for view in self.network.views(images, windows=SIDES if self.windows else ()):
            if self.windows:
                score, field = zero_shot(view, words, temperature=self.temperature)
            else:
                patches = prompt_scores(view.patches, words, mode=self.mode, temperature=self.temperature)
                score = aggregate_patch_scores(patches, method=self.aggregation, topk=self.topk)
                field = patches.reshape(view.grid)
            predictions.append(_prediction(score, field, view.size, self.sigma))
        return predictions

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The image tower and the descriptions, and what is known of their origin. An embedder is not among them."""
        import torch

        if self.text_features_ is None:
            raise RuntimeError("PromptScore is not fitted; call fit(images) first")
        tensors, facts = self.network.state()
        words = torch.from_numpy(self.text_features_)
        return {**tensors, "text_features": words}, {**facts, "threshold": self.threshold_}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs open_clip, which defines the network, and no weights."""
        self.network.restore(tensors, facts)
        self.text_features_ = self._words = tensors["text_features"].numpy()
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Model, its weights' origin and checksum, how it is computed, what the words are about."""
        return {**self.network.facts(), "class_name": self.class_name}


class _WithReferences(base.ThroughNetwork):
    """What PatchKNN and WinCLIP have in common: normal images are remembered, and every image judged by them."""

    network: FrozenCLIP
    references: References

    def _remember(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None,
        threshold: bool,
        progress: Progress | None,
    ) -> None:
        """The whole of `fit` but for words; forgets what was remembered before."""
        self.references.clear()
        self.threshold_ = None
        count, scores = self.references.learn(
            self.network.batches(images),
            self._see,
            of=self,
            device=lambda: self.network.device,
            judge=self._judge if threshold or left_out is not None else None,
            left_out=left_out,
            progress=progress,
        )
        if not count:
            raise ValueError(f"{type(self).__name__} needs at least one training image, found none")
        heap.give_back()
        if threshold:
            self.threshold_ = self.threshold_of(scores)

    def predict_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Score and (H, W) map of each image, higher is more anomalous. RuntimeError before `fit`."""
        self.require_fitted()
        return [self._judge(seen) for seen in self._see(images)]

    def _see(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        raise NotImplementedError

    def _judge(self, seen: Seen, without: int | None = None) -> Prediction:
        raise NotImplementedError


class PatchKNN(_WithReferences):
    """The cosine distance of each patch to the nearest patch of a few normal images, as CLIP's image tower sees them.

    WinCLIP's reference association (section 4.4) at the scale of single patches: no words, no windows. The map is the
    distances (1 - cos), the score their `aggregation`.

    model_name: a model of open_clip with a vision transformer of its own, such as "ViT-B-16", "ViT-B-16-plus-240".
    pretrained: the name of weights that open_clip publishes, true for the model's usual ones, a checkpoint file (in a
        spec better named by `weights`), or false: random weights, for trying the machinery only. The default stands for
        the usual ones where a model has none of that name.
    weights: a checkpoint file to use in place of the published weights.
    layer: the patch tokens that are compared: "norm", the last block's after the last layer norm, those that WinCLIP
        associates; "patches", the same projected to where texts are; "blocks.i", the output of a block, from 0.
    shots: how many training images are remembered, drawn by lot with `seed`; none given: all.
    n_neighbors: nearest patches over which the distance is averaged.
    embedder: what sees in place of open_clip: an object with embed(image) -> (patches (P, D), (h, w), (H, W)); `layer`
        is then its own matter.
    aggregation: the image's score out of the patches': "topk_mean", "max" or "mean".
    topk: the share of the highest patch scores that "topk_mean" takes, in (0, 1].
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the image given; 0: none.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the training images' scores, each
        by the memory without that image. Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of the images drawn, and of random weights.
    batch_size: images that pass through the network together; "auto" is 16.
    precision: number format of the image tower: "fp32", "bf16", "fp16", or "auto", the fastest the device is made for.

    Learned: `references` with the patches of each remembered image; `threshold_` (None after one training image, or
    with `threshold=False`).
    """

    offers_left_out = True
    network: FrozenCLIP

    def __init__(
        self,
        *,
        model_name: str = "ViT-B-16",
        pretrained: str | bool = "laion2b_s34b_b88k",
        weights: str | None = None,
        layer: str = "norm",
        shots: int | None = None,
        n_neighbors: int = 1,
        embedder: Embedder | None = None,
        aggregation: Literal["topk_mean", "max", "mean"] = "topk_mean",
        topk: float = 0.01,
        sigma: float = _SIGMA,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
    ) -> None:
        wrong = wrong_clip(pretrained=pretrained, batch_size=batch_size, layer=layer, embedder=embedder)
        wrong += _wrong_references(shots, n_neighbors)
        wrong += _wrong_scores(aggregation=aggregation, topk=topk, sigma=sigma, contamination=contamination)
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.network = FrozenCLIP(
            name="vision_openclip_patchknn",
            model_name=model_name,
            pretrained=pretrained,
            weights=weights,
            device=device,
            seed=seed,
            precision=precision,
            batch_size=batch_size,
            layer=layer,
            embedder=embedder,
        )
        self.references = References(kinds=1, shots=shots, n_neighbors=n_neighbors, seed=seed)
        self.aggregation: Aggregation = aggregation
        self.topk = topk
        self.sigma = sigma
        self.contamination = contamination
        self.threshold_: float | None = None

    @property
    def is_fitted(self) -> bool:
        return bool(self.references.banks)

    def doubts(self) -> list[str]:
        """What makes the scores less than they seem: random weights, and a file that is not read for their sake."""
        return [*super().doubts(), *self.network.doubts()]

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        Raises BackendMissing, WeightsError, SpecError for what open_clip or this machine has not.
        """
        self.network.prepare(download=download)

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Remember patches of normal images.

        left_out: receives each training image's prediction by the memory without that image's own patches; not for the
            only image remembered.
        threshold: False leaves `threshold_` unset, and saves scoring all training images if nobody else asks for it.
        Raises ValueError without images, DataError naming a broken one, BackendMissing, WeightsError.
        """

        self._remember(images, left_out=left_out, threshold=threshold, progress=progress)
        return self

    def _see(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        return [Seen((view.patches,), view.grid, view.size) for view in self.network.views(images)]

    def _judge(self, seen: Seen, without: int | None = None) -> Prediction:
        (distances,) = self.references.distances(seen, without=without)
        score = aggregate_patch_scores(distances, method=self.aggregation, topk=self.topk)
        return _prediction(score, reshape_patch_scores(distances, *seen.grid), seen.size, self.sigma)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The image tower and the memory, and what is known of their origin. An embedder is not among them."""
        self.require_fitted()
        tensors, facts = self.network.state()
        own, kept = self.references.state()
        return {**tensors, **own}, {**facts, **kept, "threshold": self.threshold_}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs open_clip, which defines the network, and no weights."""
        self.network.restore(tensors, facts)
        self.references.restore(tensors, facts, device=self.network.device)
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Model, its weights' origin and checksum, how it is computed, size of the memory."""
        return {**self.network.facts(), "layer": self.network.own.layer, **self.references.facts()}


class WinCLIP(_WithReferences):
    """WinCLIP+: words for flawed and flawless objects, and a few normal images, both at several scales (4.3, 4.4).

    Words: the probability of the flawed object's description for the whole image, and for windows of 2x2 and 3x3
    patches, of which the network sees nothing else; a patch has the harmonic mean of the windows that cover it, and the
    map the harmonic mean of the three scales. References: half of 1 - cos to the nearest in any reference image, of
    patches (last block, after the last layer norm) and of windows of both sizes, spread over patches in the same way;
    the map is the mean of the three. The map given is the mean of both maps, the score the mean of the image's own
    probability and of the largest value of the references' map. Without references: `vision_openclip_promptscore` with
    windows.

    The paper's network is ViT-B-16-plus-240 with weights laion400m_e31, at 240x240.

    model_name: a model of open_clip with a vision transformer of its own, such as "ViT-B-16", "ViT-B-16-plus-240".
    pretrained: the name of weights that open_clip publishes, true for the model's usual ones, a checkpoint file (in a
        spec better named by `weights`), or false: random weights, for trying the machinery only. The default stands for
        the usual ones where a model has none of that name.
    weights: a checkpoint file to use in place of the published weights.
    class_name: what is on the images, in English, such as "metal nut". In a run on a data set whose categories say it,
        the category ("metal_nut" without the line) takes the default's place.
    shots: how many training images are references, drawn by lot with `seed`; all of them where there are no more. The
        paper has up to 4; time and memory grow with it.
    temperature: of the softmax between the descriptions; see `vision_openclip_promptscore`.
    normal_text_features: (D,) or (n, D) text embeddings that describe a flawless object, in place of the ensemble's.
    anomaly_text_features: the same of a flawed one; both or neither.
    embedder: what sees in place of open_clip: an object with embed(image) -> (patches (P, D), (h, w), (H, W)) and
        embed_windows(image, sides) -> (the image's embedding, those of the windows); needs both text features.
    sigma: standard deviation of the Gaussian that smooths the map, in pixels of the image given; 0, the paper's: none.
    contamination: in (0, 0.5); `threshold_` is the (1 - contamination) quantile of the training images' scores, each
        by the references without that image. Only `predict` uses it; runs have their own calibrated threshold.
    device: "auto", "cpu", "cuda", "cuda:N" or "mps".
    seed: of the images drawn, and of random weights.
    batch_size: images that pass through the network together; "auto" is 16.
    precision: number format of the image tower: "fp32", "bf16", "fp16", or "auto", the fastest the device is made for.

    Learned: `text_features_` (2, D), the flawless object's first; `references`; `threshold_` (None after one training
    image, or with `threshold=False`).
    """

    offers_left_out = True
    network: FrozenCLIP

    def __init__(
        self,
        *,
        model_name: str = "ViT-B-16",
        pretrained: str | bool = "laion2b_s34b_b88k",
        weights: str | None = None,
        class_name: str = "object",
        shots: int | None = 4,
        temperature: float = _WINCLIP_TEMPERATURE,
        normal_text_features: NDArray[np.float32] | None = None,
        anomaly_text_features: NDArray[np.float32] | None = None,
        embedder: WindowEmbedder | None = None,
        sigma: float = _WINCLIP_SIGMA,
        contamination: float = 0.1,
        device: str = "auto",
        seed: int = 0,
        batch_size: int | Literal["auto"] = 16,
        precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
    ) -> None:
        given, wrong = _given_words(normal_text_features, anomaly_text_features, embedder)
        wrong += wrong_clip(pretrained=pretrained, batch_size=batch_size, embedder=embedder)
        wrong += _wrong_window_embedder(embedder)
        wrong += _wrong_words(class_name, temperature)
        wrong += _wrong_references(shots, 1)
        wrong += _wrong_scores(aggregation="max", topk=1.0, sigma=sigma, contamination=contamination)
        if wrong:
            raise ParamError([Problem(message) for message in wrong])
        self.network = FrozenCLIP(
            name="vision_winclip",
            model_name=model_name,
            pretrained=pretrained,
            weights=weights,
            device=device,
            seed=seed,
            precision=precision,
            batch_size=batch_size,
            layer="norm",
            embedder=embedder,
        )
        self.references = References(kinds=1 + len(SIDES), shots=shots, n_neighbors=1, seed=seed)
        self.class_name = class_name
        self.temperature = temperature
        self.sigma = sigma
        self.contamination = contamination
        self._words = given
        self.text_features_: NDArray[np.float32] | None = None
        self.threshold_: float | None = None

    @property
    def is_fitted(self) -> bool:
        return self.text_features_ is not None and bool(self.references.banks)

    def doubts(self) -> list[str]:
        """What makes the scores less than they seem: random weights, and a file that is not read for their sake."""
        return [*super().doubts(), *self.network.doubts()]

    def prepare(self, *, download: bool = True) -> None:
        """Have everything ready that `fit` needs beside images; without `download`, only what is not the network's.

        Raises BackendMissing, WeightsError, SpecError for what open_clip or this machine has not.
        """
        self.network.prepare(download=download, words=self._words is None)

    def fit(
        self,
        images: Iterable[base.Image],
        *,
        left_out: Callable[[Prediction], None] | None = None,
        threshold: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Read the descriptions, and keep references of normal images.

        left_out: receives each training image's prediction by the references without that image; not for the only one.
        threshold: False leaves `threshold_` unset, and saves scoring all training images if nobody else asks for it.
        Raises ValueError without images, DataError naming a broken one, BackendMissing, WeightsError.
        """

        self.text_features_ = None
        self._words = self.text_features_ = _words(self.network, self._words, self.class_name)
        self._remember(images, left_out=left_out, threshold=threshold, progress=progress)
        return self

    def _see(self, images: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        if self.text_features_ is None:
            raise RuntimeError("WinCLIP is not fitted; call fit(images) first")
        out = []
        for view in self.network.views(images, windows=SIDES):
            score, field = zero_shot(view, self.text_features_, temperature=self.temperature)
            out.append(Seen((view.patches, *view.windows), view.grid, view.size, score, field))
        return out

    def _judge(self, seen: Seen, without: int | None = None) -> Prediction:
        # Half the cosine distance lies in [0, 1], as a probability does: equation 4.
        import numpy as np

        patches, *windows = (d.astype(np.float64) / 2 for d in self.references.distances(seen, without=without))
        scales = [patches.reshape(seen.grid)]
        scales += [spread(scores, seen.grid, side) for scores, side in zip(windows, SIDES, strict=True)]
        few = np.mean(scales, axis=0)
        score = (seen.prompt + float(few.max())) / 2
        return _prediction(score, few if seen.prompts is None else (seen.prompts + few) / 2, seen.size, self.sigma)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The image tower, the descriptions, the references, and what is known of their origin.

        An embedder is not among them.
        """

        import numpy as np
        import torch

        self.require_fitted()
        tensors, facts = self.network.state()
        own, kept = self.references.state()
        words = torch.from_numpy(np.asarray(self.text_features_))
        return {**tensors, **own, "text_features": words}, {**facts, **kept, "threshold": self.threshold_}

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any]) -> Self:
        """Take over what `state` gave; needs open_clip, which defines the network, and no weights."""
        self.network.restore(tensors, facts)
        self.references.restore(tensors, facts, device=self.network.device)
        self.text_features_ = self._words = tensors["text_features"].numpy()
        self.threshold_ = facts["threshold"]
        return self

    def facts(self) -> dict[str, Any]:
        """Model, its weights' origin and checksum, how it is computed, what the words are about, references."""
        return {**self.network.facts(), "class_name": self.class_name, **self.references.facts()}


def zero_shot(view: View, words: NDArray[np.float32], *, temperature: float) -> tuple[float, NDArray[np.float64]]:
    """What words alone say of an image, as WinCLIP does it (section 4.3): its probability of being flawed, in (0, 1),

    and (grid) the same of each patch: the harmonic mean over the image, and the windows of each size around the patch.
    """

    import numpy as np

    if view.image is None:
        raise ValueError("a zero-shot score needs the embedding of the whole image and its windows")
    (score,) = prompt_scores(view.image[None], words, mode="softmax", temperature=temperature).tolist()
    scales = [np.full(view.grid, score)]
    for vectors, side in zip(view.windows, SIDES, strict=True):
        scales.append(spread(prompt_scores(vectors, words, mode="softmax", temperature=temperature), view.grid, side))
    return score, harmonic_mean(scales)


def _prediction(score: float, field: NDArray[Any], size: Any, sigma: float) -> Prediction:
    import numpy as np

    return Prediction(float(np.float32(score)), enlarge(field.astype(np.float32), size, sigma=sigma))


def _words(network: FrozenCLIP, known: NDArray[np.float32] | None, class_name: str) -> NDArray[np.float32]:
    """(2, D) the descriptions of the flawless and of the flawed object, if they are not known already."""

    import numpy as np

    if known is not None:
        return known
    return np.stack([mean_direction(network.text_features(texts)) for texts in prompt_ensemble(class_name)])


def _given_words(
    normal: NDArray[np.float32] | None, anomaly: NDArray[np.float32] | None, embedder: object
) -> tuple[NDArray[np.float32] | None, list[str]]:
    """(2, D) the text features that were given, and what is wrong with them."""

    import numpy as np

    if normal is None or anomaly is None:
        if normal is not None or anomaly is not None:
            return None, ["normal_text_features and anomaly_text_features must be given together"]
        wrong = "an embedder needs both normal_text_features and anomaly_text_features: it reads no texts"
        return None, [wrong] if embedder is not None else []
    try:
        return np.stack([mean_direction(normal), mean_direction(anomaly)]), []
    except ValueError as error:
        return None, [f"normal_text_features and anomaly_text_features: {error}"]


def _wrong_words(class_name: str, temperature: float) -> list[str]:
    checks = (
        (bool(class_name.strip()), f"class_name (={class_name!r}) must name what is on the images"),
        (temperature > 0, f"temperature (={temperature}) must be above 0"),
    )
    return [message for holds, message in checks if not holds]


def _wrong_mode(mode: str, temperature: float | None, *, windows: bool, aggregation: str, topk: float) -> list[str]:
    """Parameters that would have no effect, or no meaning, beside each other."""
    if mode not in get_args(Mode):
        return [f"mode (={mode!r}) must be one of {', '.join(get_args(Mode))}"]
    checks = (
        (mode == "softmax" or temperature is None, f'temperature (={temperature}) must go with mode "softmax"'),
        (
            mode == "softmax" or not windows,
            'windows (=True) must go with mode "softmax": a harmonic mean is of positives',
        ),
        (
            not windows or aggregation == "topk_mean",
            f"aggregation (={aggregation!r}) must be left out with windows: the score is the whole image's",
        ),
        (not windows or topk == 0.01, f"topk (={topk}) must be left out with windows: the score is the whole image's"),
    )
    return [message for holds, message in checks if not holds]


def _wrong_references(shots: int | None, n_neighbors: int) -> list[str]:
    checks = (
        (shots is None or shots >= 1, f"shots (={shots}) must be at least 1"),
        (n_neighbors >= 1, f"n_neighbors (={n_neighbors}) must be at least 1"),
    )
    return [message for holds, message in checks if not holds]


def _wrong_scores(*, aggregation: str, topk: float, sigma: float, contamination: float) -> list[str]:
    checks = (
        (
            aggregation in get_args(Aggregation),
            f"aggregation (={aggregation!r}) must be one of {', '.join(get_args(Aggregation))}",
        ),
        (0 < topk <= 1, f"topk (={topk}) must lie in (0, 1]"),
        (sigma >= 0, f"sigma (={sigma}) must be at least 0"),
        (0 < contamination < 0.5, f"contamination (={contamination}) must lie in (0, 0.5)"),
    )
    return [message for holds, message in checks if not holds]


def _wrong_window_embedder(embedder: object) -> list[str]:
    if embedder is None or callable(getattr(embedder, "embed_windows", None)):
        return []
    return ["windows need an embedder with a method embed_windows(image, sides) -> (image, windows)"]
