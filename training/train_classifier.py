"""Train ``data/models/fashion-classifier``: the offline feature extractor of the sample scores.

    python training/train_classifier.py --epochs 6 --seed 0

Writes weights, configuration and a model card with the accuracy and the minutes that this run measured. The
same seed and thread count give the same weights on the same machine. Run ``python training/manifest.py``
afterwards.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from fashion_mnist import load_split
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from qdiff_lib.evaluation.classifier import SIZE, FashionClassifier
from qdiff_lib.evaluation.reference_images import CLASS_NAMES
from qdiff_lib.utils.files import atomic_path, write_json
from qdiff_lib.utils.provenance import processor

WIDTHS = (32, 64, 96, 128, 128)
CARD = """\
# fashion-classifier

A small convolutional network ({parameters:,} parameters) that gives 128 features and 10 logits for an image
of 32x32 pixels. `qdiff_lib.evaluation` compares generated with real images in its feature space, so that
samples can be scored on a machine without network access and without Inception-v3.

- **Use**: Frechet and kernel distances between sets of garment images, and the inception score of its
  logits. The numbers compare with each other alone: they are not FID, KID and IS of the literature, and
  they mean little for images that are no garments.
- **Data**: Fashion-MNIST, 60,000 training images (Zalando SE, MIT licence), zero-padded from 28x28 to 32x32,
  mirrored at random. The test images were used for the accuracy below alone.
- **Licence**: that of this repository's code.
- **Command**: `{command}`
- **Hardware**: {hardware}, {threads} thread(s), torch {torch}
- **Time**: {minutes:.1f} minutes ({cpu_minutes:.1f} minutes of processor time)
- **Accuracy**: {accuracy:.2f} % of the 10,000 test images; {last_epoch:.2f} % in the last epoch of training
- **Input**: uint8 (N, 1 or 3, H, W); **output**: features (N, 128), logits (N, 10) in the order {classes}
"""


def mirrored(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image (N, 1, H, W), or its mirror image with probability one half."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)


def train(args: argparse.Namespace) -> tuple[FashionClassifier, float]:
    """The trained network and its accuracy (per cent) over the last epoch's training batches."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    images, labels = load_split("train", args.data)
    model = FashionClassifier(WIDTHS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(images) // args.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * steps)
    bar = tqdm(total=args.epochs * steps, unit="step", mininterval=5)
    for _ in range(args.epochs):
        correct = 0
        order = torch.randperm(len(images), generator=generator)[: steps * args.batch_size]
        for index in order.split(args.batch_size):
            _, logits = model(mirrored(images[index], generator))
            loss = cross_entropy(logits, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            correct += (logits.argmax(dim=1) == labels[index]).sum().item()
            bar.update()
        bar.set_postfix(training_accuracy=f"{100 * correct / len(order):.2f} %")
    bar.close()
    return model.eval(), 100 * correct / len(order)


@torch.inference_mode()
def accuracy(model: FashionClassifier, folder: Path | None) -> float:
    """Per cent of the test images whose largest logit is that of their label."""
    images, labels = load_split("t10k", folder)
    predicted = torch.cat([model(batch)[1].argmax(dim=1) for batch in images.split(500)])
    return 100 * (predicted == labels).double().mean().item()


def save(model: FashionClassifier, out: Path, measured: dict) -> None:
    """Write weights, configuration and card to ``out``, each file atomically."""
    config = {"widths": WIDTHS, "classes": len(CLASS_NAMES), "class_names": CLASS_NAMES, "size": SIZE}
    with atomic_path(out / "model.safetensors") as path:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    write_json(out / "config.json", config | {"test_accuracy": round(measured["accuracy"], 2)})
    with atomic_path(out / "README.md") as path:
        path.write_text(CARD.format(**measured), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="peak of the one-cycle schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--data", type=Path, help="folder with the IDX files (default: Debian's, else torchvision's)"
    )
    parser.add_argument("--out", type=Path, default=Path("data/models/fashion-classifier"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start, cpu_start = time.monotonic(), time.process_time()
    model, last_epoch = train(args)
    measured = dict(
        parameters=sum(p.numel() for p in model.parameters()),
        command=shlex.join(["python", *sys.argv]),
        hardware=processor(),
        threads=args.threads,
        torch=torch.__version__,
        minutes=(time.monotonic() - start) / 60,
        cpu_minutes=(time.process_time() - cpu_start) / 60,
        accuracy=accuracy(model, args.data),
        last_epoch=last_epoch,
        classes=", ".join(CLASS_NAMES),
    )
    save(model, args.out, measured)
    print(f"{args.out}: {measured['accuracy']:.2f} % of the test images")


if __name__ == "__main__":
    main()
