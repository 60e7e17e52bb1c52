"""The benchmarked models as PyTorch code is usually written, without compilation."""

import importlib
import itertools
import time
from collections.abc import Callable
from typing import Any

from scripts.benchmark_sides import MODELS, Turn, random_dataset, settings_of

Cost = Callable[[Any, Any], Any]  # of images and the rows they come from


def turn(model: str, steps: int) -> Turn:
    """The same model and optimizer: `steps` steps on shuffled images, timed."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = random_dataset(model)
    images = torch.from_numpy(dataset.train.images)
    mean = torch.from_numpy(dataset.train_mean())
    make = {"sbn": _sbn, "vae": _vae, "semi_supervised": _semi_supervised}[model]
    parameters, cost = make(torch, mean, torch.from_numpy(dataset.train.labels))
    if MODELS[model].widths is None:
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
    else:
        optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)

    def step(indices: Any) -> None:
        optimizer.zero_grad()
        cost(images, indices).backward()
        optimizer.step()

    def timed() -> float:
        order = torch.randperm(len(images))
        began = time.process_time()
        for index in range(steps):
            step(order[(index * 100) % 50_000 :][:100])
        return steps / (time.process_time() - began)

    timed()
    return timed


def _linears(torch: Any, widths: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    layers = [torch.nn.Linear(*shape) for shape in itertools.pairwise(widths)]
    return layers, [p for layer in layers for p in layer.parameters()]


def _sbn(torch: Any, mean: Any, _labels: Any) -> tuple[list[Any], Cost]:
    """392-200-200-392 Bernoulli layers by binary concrete samples."""
    widths = MODELS["sbn"].widths
    assert widths is not None
    layers, parameters = _linears(torch, widths)
    upper = mean.reshape(-1)[: widths[0]]

    def binary_concrete(logits: Any) -> Any:
        uniform = torch.rand_like(logits).clamp_(1e-7, 1 - 1e-7)
        return torch.sigmoid(logits + torch.log(uniform) - torch.log1p(-uniform))

    def cost(images: Any, indices: Any) -> Any:
        pixels = images[indices].float().reshape(len(indices), -1)
        hidden = pixels[:, : widths[0]] - upper
        for layer in layers[:-1]:
            hidden = 2 * binary_concrete(layer(hidden)) - 1
        return _misfit(torch, layers[-1](hidden), pixels[:, widths[0] :]) / len(pixels)

    return parameters, cost


def _vae(torch: Any, mean: Any, _labels: Any) -> tuple[list[Any], Cost]:
    """784-(20x10)-200-784 by Gumbel-Softmax, its KL term at the sample, its prior learned."""
    widths = MODELS["vae"].widths
    assert widths is not None
    (encoder, inner, outer), parameters = _linears(torch, widths)
    prior = torch.nn.Parameter(torch.zeros(20, 10))
    flat = mean.reshape(-1)

    def cost(images: Any, indices: Any) -> Any:
        pixels = images[indices].float().reshape(len(indices), -1)
        logits = encoder(pixels - flat).reshape(-1, 20, 10)
        z = gumbel_softmax(torch, logits)
        hidden = torch.tanh(inner(((z - 0.1) / 0.3).reshape(len(z), -1)))
        kl = (z * (torch.log_softmax(logits, -1) - torch.log_softmax(prior, -1))).sum()
        return (_misfit(torch, outer(hidden), pixels) + kl) / len(pixels)

    return [*parameters, prior], cost


def _semi_supervised(torch: Any, mean: Any, labels: Any) -> tuple[list[Any], Cost]:
    """The model of `experiments.tasks.semi_supervised`, on 100 images and 20 with labels."""
    nn, functional = torch.nn, torch.nn.functional
    options = settings_of("semi_supervised").options
    features, (first, second, third) = 16 * options.encoder[-1], options.decoder

    def encoder() -> Any:
        layers = [
            layer
            for below, above in itertools.pairwise((1, *options.encoder))
            for layer in (nn.Conv2d(below, above, 3, stride=2, padding=1), nn.ReLU())
        ]
        return nn.Sequential(*layers, nn.Flatten())

    model = nn.ModuleDict(
        {
            "class_of": nn.Sequential(encoder(), nn.Linear(features, 10)),
            "style_of": nn.Sequential(encoder(), nn.Linear(features, options.head)),
            "style_from_class": nn.Linear(10, options.head, bias=False),
            "style_head": nn.Linear(options.head, 2 * options.style_dim),
            "decoder": nn.Sequential(
                *(nn.Linear(10 + options.style_dim, 49 * first), nn.ReLU()),
                nn.Unflatten(1, (first, 7, 7)),
                *(nn.Conv2d(first, second, 3, padding=1), nn.ReLU()),
                *(nn.Conv2d(second, 4 * third, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()),
                *(nn.Conv2d(third, 4, 3, padding=1), nn.PixelShuffle(2)),
            ),
        }
    )
    bias = nn.Parameter(torch.zeros(28, 28))

    def bound(pixels: Any, y: Any) -> Any:
        """The costs of images of these classes, without what depends on the class alone."""
        hidden = model["style_of"](pixels[:, None] - mean) + model["style_from_class"](y)
        at, log_scale = model["style_head"](torch.relu(hidden)).chunk(2, dim=-1)
        log_scale = log_scale - 2
        z = at + torch.exp(log_scale) * torch.randn_like(at)
        kl = (0.5 * (at**2 + torch.exp(2 * log_scale) - 1) - log_scale).sum()
        decoded = model["decoder"](torch.cat([y, z], dim=-1))[:, 0] + bias
        return (options.style_beta * kl + _misfit(torch, decoded, pixels)) / len(pixels)

    def drawn(images: Any, indices: Any) -> Any:
        return torch.bernoulli(images[indices].float() / 255)

    def cost(images: Any, indices: Any) -> Any:
        pixels = drawn(images, indices)
        log_q = torch.log_softmax(logits := model["class_of"](pixels[:, None] - mean), dim=-1)
        kl = (torch.exp(log_q) * log_q).sum() / len(pixels)
        unlabeled = bound(pixels, gumbel_softmax(torch, logits)) + kl
        known = torch.randint(options.num_labels, (options.labeled_batch_size,))
        labeled = drawn(images, known)
        classes = labels[known].long()
        error = functional.cross_entropy(model["class_of"](labeled[:, None] - mean), classes)
        observed = functional.one_hot(classes, 10).float()
        share = options.num_labels / len(images)
        weight = options.labeled_weight * share
        return unlabeled + weight * bound(labeled, observed) + options.alpha / share * error

    return [*model.parameters(), bias], cost


def gumbel_softmax(torch: Any, logits: Any) -> Any:
    """A relaxed sample at temperature 1."""
    noise = -torch.log(torch.empty_like(logits).exponential_())
    return torch.softmax(logits + noise, dim=-1)


def _misfit(torch: Any, logits: Any, pixels: Any) -> Any:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, pixels, reduction="sum")
