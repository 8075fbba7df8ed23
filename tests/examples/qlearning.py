"""Lightning's example «reinforcement learning: DQN»: an IterableDataset over a replay buffer, no validation.

python src/model/qlearning/qlearning.py
"""

import random
from collections import deque, namedtuple

from src.utils.experiment import experiment
from src.utils.run import Run
from src.utils.settings import TrainingSettings
from src.utils.training import best_score, tracked_trainer

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

Experience = namedtuple("Experience", ["state", "action", "reward", "done", "new_state"])


class Config(TrainingSettings):
    lr: float
    gamma: float


@experiment
def main(cfg: Config, run: Run) -> float:
    model = DQN(lr=cfg.lr, gamma=cfg.gamma)
    trainer = tracked_trainer(run, cfg)
    trainer.fit(model, ckpt_path=run.resume_from, weights_only=True)
    return best_score(trainer)


class Corridor:
    """Six cells; the right end is worth 1, each step costs 0.02."""

    def reset(self):
        self.cell, self.steps = 0, 0
        return self.state()

    def state(self):
        return np.eye(6, dtype=np.float32)[self.cell]

    def step(self, action: int):
        self.cell, self.steps = max(0, self.cell + (1 if action else -1)), self.steps + 1
        done = self.cell == 5
        return self.state(), 1.0 if done else -0.02, done or self.steps == 30


class ReplayBuffer:
    def __init__(self, capacity: int):
        self.buffer = deque(maxlen=capacity)

    def __len__(self):
        return len(self.buffer)

    def append(self, experience: Experience):
        self.buffer.append(experience)

    def sample(self, batch_size: int):
        indices = random.choices(range(len(self.buffer)), k=batch_size)
        states, actions, rewards, dones, next_states = zip(
            *(self.buffer[i] for i in indices), strict=True
        )
        return (
            np.array(states),
            np.array(actions),
            np.array(rewards, dtype=np.float32),
            np.array(dones, dtype=bool),
            np.array(next_states),
        )


class RLDataset(IterableDataset):
    """Updated with new experiences during training."""

    def __init__(self, buffer: ReplayBuffer, sample_size: int = 64):
        self.buffer, self.sample_size = buffer, sample_size

    def __iter__(self):
        states, actions, rewards, dones, new_states = self.buffer.sample(self.sample_size)
        for i in range(len(dones)):
            yield states[i], actions[i], rewards[i], dones[i], new_states[i]


class Agent:
    def __init__(self, env: Corridor, buffer: ReplayBuffer):
        self.env, self.buffer = env, buffer
        self.state = self.env.reset()

    def get_action(self, net: nn.Module, epsilon: float) -> int:
        if random.random() < epsilon:
            return random.randrange(2)
        return int(net(torch.tensor(self.state)[None]).argmax())

    @torch.no_grad()
    def play_step(self, net: nn.Module, epsilon: float = 0.0):
        action = self.get_action(net, epsilon)
        new_state, reward, done = self.env.step(action)
        self.buffer.append(Experience(self.state, action, reward, done, new_state))
        self.state = self.env.reset() if done else new_state
        return reward, done


class DQN(pl.LightningModule):
    def __init__(self, batch_size=8, lr=1e-2, gamma=0.99, sync_rate=10, warm_start_steps=50):
        super().__init__()
        self.save_hyperparameters()
        self.buffer = ReplayBuffer(100)
        self.agent = Agent(Corridor(), self.buffer)
        self.net, self.target_net = self.network(), self.network()
        self.total_reward = self.episode_reward = 0.0
        for _ in range(warm_start_steps):
            self.agent.play_step(self.net, epsilon=1.0)

    def network(self):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x):
        return self.net(x)

    def dqn_mse_loss(self, batch):
        states, actions, rewards, dones, next_states = batch
        values = self.net(states).gather(1, actions.long().unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            next_values = self.target_net(next_states).max(1)[0]
            next_values[dones] = 0.0
        return nn.MSELoss()(values, next_values * self.hparams["gamma"] + rewards)

    def training_step(self, batch, nb_batch):
        epsilon = max(0.1, 1.0 - self.global_step / 50)
        reward, done = self.agent.play_step(self.net, epsilon)
        self.episode_reward += reward
        loss = self.dqn_mse_loss(batch)
        if done:
            self.total_reward, self.episode_reward = self.episode_reward, 0.0
        if self.global_step % self.hparams["sync_rate"] == 0:
            self.target_net.load_state_dict(self.net.state_dict())
        self.log_dict({"reward": reward, "train_loss": loss})
        self.log("total_reward", float(self.total_reward), prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=self.hparams["lr"])

    def train_dataloader(self):
        return DataLoader(RLDataset(self.buffer), batch_size=self.hparams["batch_size"])


if __name__ == "__main__":
    main()
