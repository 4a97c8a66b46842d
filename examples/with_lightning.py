"""Lightning: teleport in place at the start of epochs 0 and 5."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from nteleport.data.files import read_digits
from nteleport.integrations.lightning import Teleport


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


pl.seed_everything(0)
images, labels = (torch.from_numpy(array) for array in read_digits("train"))
images, labels = images.flatten(1) / 255, labels.long()
classifier = Classifier()
teleport = Teleport(schedule={"epochs": [0, 5]}, cob_range=0.9)  # activations="conjugated" moves further
trainer = pl.Trainer(
    max_epochs=10, callbacks=[teleport], accelerator="cpu", logger=False, enable_checkpointing=False
)
trainer.fit(classifier, DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True))

with torch.no_grad():
    accuracy = (classifier(images).argmax(1) == labels).float().mean()
print(f"training accuracy {accuracy:.3f}")
for certificate in teleport.certificates:
    print(f"outputs changed by {certificate.relative:.0e} of the largest")
