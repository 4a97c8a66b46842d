"""The Trainer of transformers: teleport every 100 steps, in the coordinates of the optimizer."""

import tempfile

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from nteleport.data.files import read_digits
from nteleport.integrations.transformers import TeleportCallback


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.net(images)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": cross_entropy(logits, labels), "logits": logits}
        )


images, labels = (torch.from_numpy(array) for array in read_digits("train"))
images, labels = images.flatten(1) / 255, labels.long()
classifier = Classifier()
teleport = TeleportCallback(schedule={"every_n_steps": 100}, cob_range=0.9, activations="conjugated")
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=10,
        per_device_train_batch_size=64,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
    )
    data = [{"images": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    Trainer(classifier, arguments, train_dataset=data, callbacks=[teleport]).train()

with torch.no_grad():
    accuracy = (classifier(images)["logits"].argmax(1) == labels).float().mean()
print(f"training accuracy {accuracy:.3f}")
